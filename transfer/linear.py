"""Linear probe: multinomial logistic regression on frozen, standardised features."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import MinLen
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from datamodules.contract import Task
from datamodules.spec import DataSpec
from datamodules.splits import stratified
from datamodules.watching import told, watched
from errors import BadInput, nearest
from models.encoder import ALL_LAYERS, Encoder
from ranges import Count, Positive
from transfer.protocol import Bench, scores

ENOUGH = 5_000  # training samples to tell readouts apart
SMALL = 10_000_000  # numbers in the feature matrix
NARROW = 2_000  # features of which second derivatives are quickly solved for


@dataclass(frozen=True)
class LinearProbe:
    """Readout (layer and pooling, where the encoder offers several) and L2 strength are chosen on the validation split.

    Of a large training split a part with the same shares of classes is enough to choose the readout. The chosen pair is fitted
    again on both splits together.

    Attributes:
        strengths: inverse L2 strengths to try (scikit-learn's C, divided by the number of samples it is the penalty's
            share of the mean loss). All are tried: a small validation split has bumps, and random weights want the weak end.
        max_iter: of the solver at each strength.
        readout: the one to take, by name; None chooses among single layers. Layers side by side have to be asked for: they are
            as many times as wide, and width alone makes random weights better.
    """

    strengths: Annotated[tuple[Positive, ...], MinLen(1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
    max_iter: Count = 1000
    readout: str | None = None
    reads: ClassVar[bool] = True

    def __call__(self, encoder: Encoder, data: Task, bench: Bench) -> dict[str, float | str]:
        candidates = self.candidates(encoder.readout_names)
        (train, train_labels), (val, val_labels), (test, labels) = (
            bench.read(encoder, data, split, candidates) for split in ("train", "val", "test")
        )
        train_labels, val_labels, labels = train_labels.numpy(), val_labels.numpy(), labels.numpy()
        search = partial(self.search, val_labels=val_labels, spec=data.spec)
        large = len(train_labels) > ENOUGH
        part = stratified(train_labels, ENOUGH / len(train_labels), bench.seed) if large else slice(None)
        readout, by_strength = candidates[0], {}
        if len(candidates) > 1:
            found = {
                name: search(train[name][part].numpy(), train_labels[part], val=val[name].numpy())
                for name in watched(candidates, "linear probe: which readout")
            }
            readout = max(found, key=lambda name: max(found[name].values()))  # of equals the encoder's own
            by_strength = found[readout]
        if large or not by_strength:
            by_strength = search(train[readout].numpy(), train_labels, val=val[readout].numpy())
        told("linear probe: the chosen one on both splits")
        strength = max(by_strength, key=by_strength.__getitem__)  # of equals the stronger regularisation
        both = np.concatenate([train[readout].numpy(), val[readout].numpy()])
        scaler = StandardScaler().fit(both)
        model = make_model(strength, self.max_iter, data.spec, both.shape[1])
        fit(model, scaler.transform(both), np.concatenate([train_labels, val_labels]))
        return scores(model.predict(scaler.transform(test[readout].numpy())), labels, data.spec) | {
            f"val_{data.spec.selection}": by_strength[strength],
            "strength": strength,
            "readout": readout,
        }

    def candidates(self, offered: Collection[str]) -> list[str]:
        """The readouts among which is chosen.

        Raises:
            BadInput: the encoder does not offer the one asked for.
        """
        if self.readout is None:
            return [name for name in offered if name != ALL_LAYERS]
        if self.readout not in offered:
            raise BadInput(f"the encoder has no transfer.readout '{self.readout}'; {nearest(self.readout, offered)}")
        return [self.readout]

    def search(
        self, train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, spec: DataSpec
    ) -> dict[float, float]:
        """The validation score of each strength, from strong to weak regularisation."""
        scaler = StandardScaler().fit(train)
        train, val = scaler.transform(train), scaler.transform(val)
        # each begins where the last one ended: the same optima in a fraction of the iterations
        model = make_model(1.0, self.max_iter, spec, train.shape[1])
        found = {}
        for strength in sorted(self.strengths):
            model.set_params(**strength_of(model, strength))
            predicted = fit(model, train, train_labels).predict(val)
            found[strength] = scores(predicted, val_labels, spec)[spec.selection]
        return found


def make_model(strength: float, max_iter: int, spec: DataSpec, num_features: int) -> LogisticRegression | Ridge:
    """Logistic regression, or ridge regression where a task has scores instead of classes.

    Two classes and few features are solved for by Newton's method, which needs few iterations at the weak end too.
    """
    if not spec.num_classes:
        return Ridge(alpha=1 / strength)
    solver = "newton-cholesky" if spec.num_classes == 2 and num_features <= NARROW else "lbfgs"
    return LogisticRegression(C=strength, solver=solver, max_iter=max_iter, warm_start=True)


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
