from training.lean_imports import import_torchmetrics

import_torchmetrics()
