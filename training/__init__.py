from training.lean_imports import import_lean

import_lean()
