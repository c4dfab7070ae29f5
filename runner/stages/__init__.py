"""What the engine asks of a plugin: the options base and one protocol a stage."""

from runner.stages.adapter import Adapter
from runner.stages.data import Data, DatasetInfo, LeftOut, Source, SourceTweet
from runner.stages.evaluation import DecodingOptions, Generator, GeneratorOptions, Metric, Weights
from runner.stages.model import Features, Model, Outline, TokenCount, VisionLanguageModel
from runner.stages.options import FilePath, LocatedStr, Options, OutsideFingerprint, Place, Stage
from runner.stages.reporter import Reporter, StopRequestedError
from runner.stages.tracker import TrackedRun, Tracker
from runner.stages.training import Optimizer, ParameterRow, ScheduledOptimizer, Trainer, TrainingRun

__all__ = [
    "Adapter",
    "Data",
    "DatasetInfo",
    "DecodingOptions",
    "Features",
    "FilePath",
    "Generator",
    "GeneratorOptions",
    "LeftOut",
    "LocatedStr",
    "Metric",
    "Model",
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
    "TrackedRun",
    "Tracker",
    "Trainer",
    "TrainingRun",
    "VisionLanguageModel",
    "Weights",
]
