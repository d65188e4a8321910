"""Stand-ins for train.py and finetune.py that need no imports: each leaves what the real one leaves."""

from pathlib import Path

from plans.job import Job
from plans.running import Work

ROOT = Path(__file__).parents[2]
STAND_IN = """
import json, os, pathlib, signal, sys, time
sys.path.insert(0, ROOT)
from conf.command import end_with_parent
end_with_parent()
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
value = lambda name: words[name].strip('"')

def record(folder, kind, **more):
    folder.mkdir(parents=True, exist_ok=True)
    record = {"kind": kind, "objective": "mae", "model": "vit_t", "data": "emoji", "seed": 0, "schema": 1, **more}
    (folder / "result.json").write_text(json.dumps(record))

if "train" in sys.argv[0]:
    folder = pathlib.Path(value("resume" if "resume" in words else "hydra.run.dir"))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    checkpoint, done = folder / "checkpoints" / "last.ckpt", []
    if "resume" in words:
        print("resumed at step", checkpoint.read_text(), flush=True)
    else:
        with (folder / "config.yaml").open("x") as file:
            file.write(words.get("steps", "0"))
    signal.signal(signal.SIGTERM, lambda *_: done.append(1))
    first, last = int(checkpoint.read_text()) if "resume" in words else 0, int((folder / "config.yaml").read_text())
    for step in range(first, last):
        time.sleep(0.05)
        if done or step % 2:
            checkpoint.write_text(str(step + 1))
            print(f"step {step + 1}  0:{step:02d} left", flush=True)
        if done:
            sys.exit(143)
    if "broken" in words:
        print("error: " + value("broken"))
        sys.exit(2)
    (folder / "encoder.json").write_text("{}")
    (folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
    record(folder, "pretrain")
else:
    for protocol in words["transfer"].split(","):
        for fraction in words["label_fraction"].split(","):
            if f"{protocol} {fraction}" in words.get("broken", ""):
                raise SystemExit("error: no neighbours")
            folder = pathlib.Path(value("hydra.sweep.dir")) / f"{protocol}_{fraction}"
            record(folder, "transfer", transfer={"process": os.getpid()})
"""


class Quiet:
    def show(self, work: Work) -> None: ...


def write_stand_ins(home: Path) -> None:
    home.mkdir()
    for script in ("train.py", "finetune.py"):
        (home / script).write_text(STAND_IN.replace("ROOT", repr(str(ROOT))))


def encoder(folder: Path, name: str, *words: str) -> Job:
    return Job(name, "train", (f"seed={name}", *words), folder / name)


GRID = [("knn", 0.1), ("knn", 1.0), ("linear", 0.1), ("linear", 1.0)]


def judged(folder: Path, after: Job, *tests: tuple[str, float], words: tuple[str, ...] = ()) -> list[Job]:
    parent = folder / "transfer" / after.label
    words = (f"checkpoint={after.folder}", *words)
    return [Job(f"{p} @ {f} of {after.label}", "finetune", words, parent / f"{p}_{f}", after, p, f) for p, f in tests]


GRID = [("knn", 0.1), ("knn", 1.0), ("linear", 0.1), ("linear", 1.0)]
