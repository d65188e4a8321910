"""Linear probe: multinomial logistic regression on frozen, standardised features."""

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from datamodules.contract import Task
from datamodules.spec import DataSpec
from models.encoder import Encoder
from transfer.features import extract_readouts, watched
from transfer.protocol import Bench, scores

ENOUGH = 5_000  # training samples to tell readouts apart
PATIENCE = 2  # strengths in a row that are worse than the best end the search
SMALL = 10_000_000  # numbers in the feature matrix


@dataclass(frozen=True)
class LinearProbe:
    """Readout (layer and pooling, where the encoder offers several) and L2 strength are chosen on the validation split.

    The readout is chosen first, at a middling strength and on an evenly spaced part of a large training split; the chosen
    pair is fitted again on both splits together.

    Attributes:
        strengths: inverse L2 strengths to try (scikit-learn's C, divided by the number of samples it is the penalty's
            share of the mean loss).
        max_iter: of L-BFGS.
    """

    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
    max_iter: int = 1000

    def __call__(self, encoder: Encoder, data: Task, bench: Bench) -> dict[str, float | str]:
        (train, train_labels), (val, val_labels), (test, labels) = (
            extract_readouts(encoder, data, split, bench.trainer["workers"], bench.precision)
            for split in ("train", "val", "test")
        )
        train_labels, val_labels, labels = train_labels.numpy(), val_labels.numpy(), labels.numpy()
        judge = partial(self.choose, val_labels=val_labels, spec=data.spec)
        part = slice(None, None, -(-len(train_labels) // ENOUGH))
        middling = sorted(self.strengths)[len(self.strengths) // 2 - 1]
        readout = next(iter(train))
        if len(train) > 1:
            found = {
                name: judge(train[name][part].numpy(), train_labels[part], val=val[name].numpy(), strengths=(middling,))[1]
                for name in watched(train, "layer and pooling", len(train))
            }
            readout = max(found, key=found.__getitem__)  # of equals the encoder's own
        chosen, val_score = judge(train[readout].numpy(), train_labels, val=val[readout].numpy(), strengths=self.strengths)
        both = np.concatenate([train[readout].numpy(), val[readout].numpy()])
        scaler = StandardScaler().fit(both)
        model = fit(
            make_model(chosen, self.max_iter, data.spec), scaler.transform(both), np.concatenate([train_labels, val_labels])
        )
        return scores(model.predict(scaler.transform(test[readout].numpy())), labels, data.spec) | {
            f"val_{data.spec.selection}": val_score,
            "strength": chosen,
            "readout": readout,
        }

    def choose(
        self,
        train: np.ndarray,
        train_labels: np.ndarray,
        val: np.ndarray,
        val_labels: np.ndarray,
        spec: DataSpec,
        strengths: tuple[float, ...],
    ) -> tuple[float, float]:
        """(the strength with the best validation score, that score); of equals the stronger regularisation.

        The weak end, which costs by far the most iterations, is tried only while the score does not fall.
        """
        scaler = StandardScaler().fit(train)
        train, val = scaler.transform(train), scaler.transform(val)
        # from strong to weak, each beginning where the last one ended: the same optima in a fraction of the iterations
        model = make_model(1.0, self.max_iter, spec)
        found = []
        for strength in watched(sorted(strengths), "linear probe"):
            model.set_params(**strength_of(model, strength))
            predicted = fit(model, train, train_labels).predict(val)
            found.append(scores(predicted, val_labels, spec)[spec.selection])
            if len(found) > PATIENCE and max(found[-PATIENCE:]) < max(found):
                break
        best = int(np.argmax(found))
        return sorted(strengths)[best], float(found[best])


def make_model(strength: float, max_iter: int, spec: DataSpec) -> LogisticRegression | Ridge:
    """Logistic regression, or ridge regression where a task has scores instead of classes."""
    model = LogisticRegression(max_iter=max_iter, warm_start=True) if spec.num_classes else Ridge()
    return model.set_params(**strength_of(model, strength))


def strength_of(model: LogisticRegression | Ridge, strength: float) -> dict[str, float]:
    """The inverse L2 strength in the model's own words."""
    return {"alpha": 1 / strength} if isinstance(model, Ridge) else {"C": strength}


def fit(model: LogisticRegression | Ridge, features: np.ndarray, labels: np.ndarray) -> LogisticRegression | Ridge:
    """Fit quietly: at weak L2 the classes are nearly separable, and the plateau is reached long before convergence.

    Small tasks run on one thread: an iteration takes a tenth of a millisecond, and waking a second thread costs more
    (1,735 x 192, two cores: 0.5 s against 4.4 s).
    """
    with warnings.catch_warnings(), threadpool_limits(1 if features.shape[0] * features.shape[1] < SMALL else None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)
