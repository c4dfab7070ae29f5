"""What the engine asks of a plugin: the options base and one protocol a stage."""

from runner.stages.adapter import Adapter
from runner.stages.annotator import Annotation, Annotator, Estimate, Tokens
from runner.stages.data import Data, DatasetInfo, LeftOut, Source, SourceTweet
from runner.stages.evaluation import DecodingOptions, Generator, GeneratorOptions, Metric, MetricOptions, Weights
from runner.stages.model import Features, FrozenVision, Model, ModelOptions, ModelSpec, TokenCounts, VisionLanguageModel
from runner.stages.plugin import (
    Described,
    FilePath,
    LocatedStr,
    Options,
    OutsideFingerprint,
    Place,
    Reporter,
    Stage,
    StopRequestedError,
    descriptions,
)
from runner.stages.tracker import TrackedRun, Tracker
from runner.stages.training import (
    AnswerEvaluator,
    Counts,
    Optimizer,
    ParameterRow,
    ScheduledOptimizer,
    SelectionMetric,
    Trainer,
    TrainerOptions,
    TrainingRun,
)

__all__ = [
    "Adapter",
    "Annotation",
    "Annotator",
    "AnswerEvaluator",
    "Counts",
    "Data",
    "DatasetInfo",
    "DecodingOptions",
    "Described",
    "Estimate",
    "Features",
    "FilePath",
    "FrozenVision",
    "Generator",
    "GeneratorOptions",
    "LeftOut",
    "LocatedStr",
    "Metric",
    "MetricOptions",
    "Model",
    "ModelOptions",
    "ModelSpec",
    "Optimizer",
    "Options",
    "OutsideFingerprint",
    "ParameterRow",
    "Place",
    "Reporter",
    "ScheduledOptimizer",
    "SelectionMetric",
    "Source",
    "SourceTweet",
    "Stage",
    "StopRequestedError",
    "TokenCounts",
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
