"""What the engine asks of a plugin: the options base and one protocol a stage."""

from runner.stages.adapter import Adapter
from runner.stages.annotator import Annotation, Annotator, Estimate, Tokens
from runner.stages.data import Data, DatasetInfo, LeftOut, Source, SourceTweet
from runner.stages.described import Described, descriptions
from runner.stages.evaluation import DecodingOptions, Generator, GeneratorOptions, Metric, MetricOptions, Weights
from runner.stages.model import Features, FrozenVision, Model, ModelOptions, Outline, TokenCount, VisionLanguageModel
from runner.stages.options import AddedLater, FilePath, LocatedStr, Options, OutsideFingerprint, Place, Stage
from runner.stages.reporter import Reporter, StopRequestedError
from runner.stages.tracker import TrackedRun, Tracker
from runner.stages.training import (
    Counts,
    Examiner,
    Measure,
    Optimizer,
    ParameterRow,
    ScheduledOptimizer,
    Trainer,
    TrainerOptions,
    TrainingRun,
)

__all__ = [
    "Adapter",
    "AddedLater",
    "Annotation",
    "Annotator",
    "Counts",
    "Data",
    "DatasetInfo",
    "DecodingOptions",
    "Described",
    "Estimate",
    "Examiner",
    "Features",
    "FilePath",
    "FrozenVision",
    "Generator",
    "GeneratorOptions",
    "LeftOut",
    "LocatedStr",
    "Measure",
    "Metric",
    "MetricOptions",
    "Model",
    "ModelOptions",
    "Optimizer",
    "Options",
    "Outline",
    "OutsideFingerprint",
    "ParameterRow",
    "Place",
    "Reporter",
    "ScheduledOptimizer",
    "Source",
    "SourceTweet",
    "Stage",
    "StopRequestedError",
    "TokenCount",
    "Tokens",
    "TrackedRun",
    "Tracker",
    "Trainer",
    "TrainerOptions",
    "TrainingRun",
    "VisionLanguageModel",
    "Weights",
    "descriptions",
]
