"""Settings that every training of camera styles has."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from reid_da.config import FREE, Count, Settings, Share, TrainingSettings


class StyleDataSettings(Settings):
    """Whose cameras the styles are of."""

    dataset: Path | None = Field(
        default=None,
        description="data set whose training images the styles are learned on",
        json_schema_extra=FREE,
    )
    image_size: tuple[Count, Count] = Field(default=(128, 64), description="height and width in pixels")
    cache: Literal["auto", "always", "never"] = Field(default="auto", description="pack decoded images on disk")
    cache_dir: Path | None = Field(default=None, description="folder of the packed images")
    on_error: Literal["raise", "skip"] = Field(default="raise", description="what an unreadable image does")


class StyleSettings(TrainingSettings):
    """What every training of camera styles needs; each method has settings of its own beside these."""

    name: str = Field(default="camera-styles", description="name of the run folder", json_schema_extra=FREE)
    method: str = Field(default="", description="stargan: one model for all cameras; cyclegan: one for each pair")
    evaluate_every: int = Field(
        default=10, ge=0, description="epochs between two pictures of samples; 0: at the end", json_schema_extra=FREE
    )
    data: StyleDataSettings = StyleDataSettings()
    batch: Count = Field(default=1, description="images in a step, of each camera where a step takes two")
    channels: Count = Field(default=64, description="of the first layer of all networks")
    residual: bool = Field(
        default=False,
        description="let generators change the image instead of making it anew; keeps the person in short trainings",
    )
    cycle_weight: float = Field(default=10.0, ge=0, description="weight of the way to another camera and back")
    flip: Share = Field(default=0.5, description="probability of a horizontal flip")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="share that a running mean of the generator keeps; 0: no such mean"
    )
