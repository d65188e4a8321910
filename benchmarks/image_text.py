"""Pictures and captions: `train.py` beside open_clip's model and loss, given the same minutes and judged by the same code.

Both train on the same shards, one after the other and alternating over seeds, each in a process of its own, in fp32. Then
both are judged on the held-out shards: retrieval with the first caption of each picture, where identical captions count as
right, and zero-shot classification from the names of the classes.

open_clip's side is as its documentation trains it: `open_clip.CLIP` (ViT 64 px, patch 8, 192 wide, 6 deep; text tower 192
wide, 4 deep; 14.1 million parameters), `ClipLoss`, its tokenizer, its training transform, AdamW with its groups and betas,
learning rate 5e-4, weight decay 0.2, cosine with warm-up, batches of 128 (`--open-clip-batch`). It is spared reading:
pictures are decoded and captions tokenised before its time begins, at 32 places instead of 77. Its schedule goes by the time
that is left.

    python benchmarks/image_text.py --shards 'rsicd64-train-{00..04}.tar' --val-shards rsicd64-val-00.tar --minutes 6 --seeds 3

Words at the end replace how train.py is called: `objective=clip datamodule=webdataset` takes the defaults.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.progress import Progress

from benchmarks.gate import until_stopped
from benchmarks.record import write_json
from conf import build, read_choice
from datamodules.webdataset import WebDataset
from errors import BadInput
from models import load_pair
from models.pair import unit
from reports.markdown import plain_table
from reports.result import read_result
from reports.statistics import bootstrap_interval
from training.memory import peak_memory_bytes
from transfer.protocol import Bench
from transfer.retrieval import Retrieval

HOME = Path(__file__).parents[1]
RECIPE = ["experiment=rsicd"]
SIDES = ("ours", "open_clip")
SIZE, PLACES, WARM_UP = 64, 32, 0.1
VISION = {"image_size": SIZE, "patch_size": 8, "width": 192, "layers": 6, "head_width": 64}
TEXT = {"context_length": PLACES, "width": 192, "layers": 4, "heads": 3}
SHOWN = {  # of a training, in the table
    "pairs": "pairs",
    "rate": "pairs/s",
    "memory": "peak GB",
    **{
        f"{way}_recall_at_{k}": f"{short} R@{k}"
        for way, short in (("image_to_text", "i->t"), ("text_to_image", "t->i"))
        for k in (1, 5, 10)
    },
    "accuracy": "zero-shot",
}


class OpenClip(nn.Module):
    """open_clip's model, asked as a pair of this project is."""

    def __init__(self) -> None:
        super().__init__()
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.tokenizer = open_clip.SimpleTokenizer(context_length=PLACES)  # its vocabulary is in the package
        self.net = open_clip.CLIP(VISION["width"], VISION, TEXT, output_dict=True)
        preprocess = PreprocessCfg(size=SIZE)
        self.augmented = image_transform_v2(preprocess, is_train=True)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocess, name)).view(-1, 1, 1))

    def images(self, views: Tensor) -> Tensor:
        return unit(self.net.encode_image((views / 255 - self.mean) / self.std))

    def texts(self, rows: dict[str, Tensor]) -> Tensor:
        ids = rows["ids"]
        return unit(self.net.encode_text(F.pad(ids, (0, PLACES - ids.shape[1]))))  # it takes no shorter rows

    def rows(self, texts: list[str]) -> dict[str, Tensor]:
        ids = self.tokenizer(texts)
        return {"ids": ids, "present": torch.arange(PLACES) <= ids.argmax(1, keepdim=True)}


def opened(shards: str, val_shards: str) -> WebDataset:
    """Both splits; captions are tokenised by each side for itself."""
    return WebDataset(shards, {"vocab_size": 2000}, val_shards, image_size=SIZE)


def judged(pair: nn.Module, data: WebDataset) -> dict[str, float]:
    """Scores on the held-out shards, and those of chance."""
    bench = Bench(Path(), 0, {"workers": 0}, "fp32")
    return Retrieval("first")(pair, data, bench) | build(read_choice("transfer", "zero_shot"))(pair, data.task, bench)


def open_clip_trained(data: WebDataset, seed: int, minutes: float, batch: int) -> dict[str, float]:
    """What open_clip comes to in that time."""
    from open_clip.loss import ClipLoss

    torch.manual_seed(seed)
    model, loss = OpenClip(), ClipLoss()
    parts = [data.splits[split] for split in ("train", "val")]  # val is carved from the training shards; it is spared that
    pictures = [part.pictures.load(i).convert("RGB") for part in parts for i in range(part.num)]
    captions = [model.tokenizer(list(part.captions(i))) for part in parts for i in range(part.num)]
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    num_pairs, done, order = 0, 0.0, torch.empty(0, dtype=torch.long)
    began = time.perf_counter()
    while done < 1:
        rising, falling = done / WARM_UP, 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * (rising if done < WARM_UP else falling)
        if len(order) < batch:  # drops the rest, as open_clip's loader does
            order = torch.randperm(len(pictures))
        chosen, order = order[:batch].tolist(), order[batch:]
        views = torch.stack([model.augmented(pictures[i]) for i in chosen])
        ids = torch.stack([captions[i][torch.randint(len(captions[i]), ())] for i in chosen])
        optimizer.zero_grad()
        loss(**model.net(views, ids)).backward()
        optimizer.step()
        with torch.no_grad():
            model.net.logit_scale.clamp_(0, math.log(100))
        num_pairs += batch
        done = (time.perf_counter() - began) / (60 * minutes)
    rate, memory = num_pairs / (60 * minutes * done), peak_memory_bytes() / 1e9
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"pairs": num_pairs, "rate": rate, "memory": memory, "parameters": parameters} | judged(model.eval(), data)


def ours_trained(chosen: argparse.Namespace, data: WebDataset, seed: int, folder: Path, progress: Progress) -> dict[str, float]:
    """What train.py comes to in that time, as typed."""
    words = [*(chosen.words or RECIPE), f"datamodule.shards={chosen.shards}", f"datamodule.val_shards={chosen.val_shards}"]
    words += [f"budget.minutes={chosen.minutes:g}", f"seed={seed}", "trainer.precision=fp32"]
    watched([str(HOME / "train.py"), *words, f"hydra.run.dir={folder}"], chosen.minutes, progress, f"ours, seed {seed}")
    result = read_result(folder / "result.json")
    num_pairs, seconds = result.budget_spent["samples"], 60 * result.budget_spent["minutes"]
    found = {"pairs": num_pairs, "rate": num_pairs / seconds, "memory": result.peak_memory_bytes / 1e9}
    return found | {"parameters": result.parameters["total"]} | judged(load_pair(folder), data)


def watched(words: list[str], minutes: float, progress: Progress, description: str) -> str:
    """Run a Python script in a process of its own, with a bar; what it printed."""
    bar, began = progress.add_task(description, total=60 * minutes), time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen([sys.executable, *words], stdout=printed, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.update(bar, completed=min(60 * minutes, time.monotonic() - began))
        finally:
            process.kill()
        progress.remove_task(bar)
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\nfailed:\n{text}")
    return text


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Means and standard deviations over seeds, the paired difference with its 95 % interval, and chance; markdown."""
    rows = {
        f"{side}, {runs[0]['parameters'] / 1e6:.1f} M": [spread(runs, name) for name in SHOWN] for side, runs in found.items()
    }
    if len(found[SIDES[0]]) > 1:
        rows["difference"] = [difference(*(in_units(found[side], name) for side in SIDES), digits(name)) for name in SHOWN]
    chances = [found[SIDES[0]][0].get(f"chance_{name}") for name in SHOWN]
    rows["chance"] = ["" if chance is None else f"{100 * chance:.1f}" for chance in chances]
    return plain_table(["", *SHOWN.values()], [[row, *cells] for row, cells in rows.items()])


def in_units(runs: list[dict[str, float]], name: str) -> list[float]:
    """As the table has them: shares in per cent."""
    return [run[name] * (100 if "recall" in name or name == "accuracy" else 1) for run in runs]


def digits(name: str) -> int:
    return {"pairs": 0, "memory": 2}.get(name, 1)


def spread(runs: list[dict[str, float]], name: str) -> str:
    values, places = in_units(runs, name), digits(name)
    deviation = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{places}f}{deviation}"


def difference(ours: list[float], theirs: list[float], places: int) -> str:
    """Mean over seeds and its interval; the columns are several tests, for which nothing is corrected."""
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    low, high = bootstrap_interval(differences)
    return f"{statistics.mean(differences):+.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", required=True, help="training shards: .jpg, and .json with captions and scene")
    parser.add_argument("--val-shards", required=True, help="held-out shards")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training, of each side and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--open-clip-batch", type=int, default=128)
    parser.add_argument("--json", type=Path, help="also write everything here")
    parser.add_argument("--open-clip-seed", type=int, help=argparse.SUPPRESS)  # this process is one training of open_clip
    parser.add_argument("words", nargs="*", help=f"of train.py; by default {' '.join(RECIPE)}")
    chosen = parser.parse_args()
    if chosen.seeds < 1 or not chosen.minutes > 0:
        parser.error(f"--seeds and --minutes must be above 0, not {chosen.seeds} and {chosen.minutes:g}")
    try:
        data = opened(chosen.shards, chosen.val_shards)
    except BadInput as error:
        parser.error(str(error))
    if chosen.open_clip_seed is not None:
        print(json.dumps(open_clip_trained(data, chosen.open_clip_seed, chosen.minutes, chosen.open_clip_batch)))
        return
    num_test, num_texts = data.splits["test"].num, len({own[0] for own in data.captions("test")})
    print(f"{chosen.minutes:g} minutes each, open_clip in batches of {chosen.open_clip_batch}, fp32, "
          f"{torch.get_num_threads()} threads, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}; "
          f"{num_test} held-out pictures with {num_texts} different first captions", flush=True)  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    shared = ["--shards", chosen.shards, "--val-shards", chosen.val_shards, "--minutes", str(chosen.minutes)]
    shared += ["--open-clip-batch", str(chosen.open_clip_batch)]
    with tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        total = progress.add_task("trainings", total=2 * chosen.seeds)
        for seed in range(chosen.seeds):
            for side in SIDES if seed % 2 == 0 else SIDES[::-1]:  # who comes first changes
                if side == "ours":
                    run = ours_trained(chosen, data, seed, Path(folder) / str(seed), progress)
                else:
                    words = [__file__, *shared, "--open-clip-seed", str(seed)]
                    run = json.loads(watched(words, chosen.minutes, progress, f"open_clip, seed {seed}").splitlines()[-1])
                found[side].append(run)
                if chosen.json:
                    write_json({"torch": torch.__version__, "minutes": chosen.minutes, "runs": found}, chosen.json)
                values = ", ".join(f"{shown} {run[name]:.3g}" for name, shown in SHOWN.items())
                progress.console.print(f"seed {seed}, {side}: {values}", highlight=False, soft_wrap=True)
                progress.advance(total)
    print(table(found))
    ratios = [own["rate"] / other["rate"] for own, other in zip(*found.values(), strict=True)]
    print(f"pairs/s: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    sys.exit(until_stopped(main))
