"""Compare: many results -> one table."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from conf.command import command


@command
@hydra.main(config_path="conf", config_name="compare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Print the table of all transfer results below the folder `report`."""
    from rich.console import Console

    from reports.table import accuracy_table, collect

    results, broken = collect(Path(config.report))
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log file has no width; 80 would cut the columns
    console.print(accuracy_table(results))
    console.print("mean ± standard deviation (number of seeds); samples, FLOPs and seconds are those of pre-training")
    for line in broken:
        console.print(f"left out: {line}", markup=False)


if __name__ == "__main__":
    main()
