"""Compare: many results -> one table and one page, and what they do and do not show."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.command import command


@command
@hydra.main(config_path="conf", config_name="compare", version_base="1.3")
def main(config: DictConfig) -> None:
    """All transfer results below `report`: print the table, what is beyond chance, head start and cost, and write the page."""
    from rich.console import Console

    from reports.head_start import head_starts
    from reports.page import write_report
    from reports.table import accuracy_table, collect
    from reports.verdict import head_start_line, pareto_lines, verdicts

    results, broken = collect(Path(config.report))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a log file has no width; 80 would cut the columns
    console.print(accuracy_table(results))
    console.print("mean ± standard deviation (number of seeds), below it the 95 % interval of the mean;")
    console.print("samples, FLOPs and seconds are those of pre-training")
    for line in (*verdicts(results), *map(head_start_line, head_starts(results)), *pareto_lines(results)):
        console.print(line, markup=False, highlight=False)
    for line in broken:
        console.print(f"left out: {line}", markup=False)
    console.print(f"report: {write_report(Path(config.report), results, broken)}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
