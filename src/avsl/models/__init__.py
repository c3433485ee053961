"""Networks: encoders, the localizer, and its exported form."""

from avsl.models.export import ExportedModel, load_exported, read_description, save_exported
from avsl.models.localizer import Localizer, LocalizerConfig, LocalizerEnsemble, average
from avsl.models.object_prior import ObjectPrior, ObjectPriorConfig

__all__ = [
    "ExportedModel",
    "Localizer",
    "LocalizerConfig",
    "LocalizerEnsemble",
    "ObjectPrior",
    "ObjectPriorConfig",
    "average",
    "load_exported",
    "read_description",
    "save_exported",
]
