"""Small networks of torchvision without their classifiers: MobileNetV2 and EfficientNet-B0."""

from torch import Tensor, nn
from torchvision.models import MobileNetV2 as TorchvisionMobileNetV2
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from reid_da.models.protocol import Backbone, Stage


class _Sequence(Backbone):
    """A sequence of numbered ``features``, named as in torchvision, with the end of each stage.

    Args:
        features: torchvision's layers.
        ends: number of layers up to the end of each stage.
        last_stage: index of the layer whose convolutions halve the maps for the last time.
        last_stride: what that layer's stride shall be.
    """

    def __init__(self, features: nn.Sequential, *, ends: tuple[int, ...], last_stage: int, last_stride: int) -> None:
        super().__init__()
        self.features = features
        self._ends = ends
        self.feature_dim = next(
            module.out_channels for module in reversed(list(features.modules())) if isinstance(module, nn.Conv2d)
        )
        for module in features[last_stage].modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (last_stride, last_stride)

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, F, h, w) output of the last layer for (B, 3, H, W) normalised images."""
        maps: Tensor = self.features(images)
        return maps

    def stages(self) -> tuple[Stage, ...]:
        """Layers by the size of their maps: 1/2 of the image's height and width, 1/4, 1/8, 1/16, 1/32."""
        starts = (0, *self._ends[:-1])
        return tuple(tuple(self.features[start:end]) for start, end in zip(starts, self._ends, strict=True))


class MobileNetV2(_Sequence):
    """MobileNetV2 (Sandler et al., CVPR 2018): 1,280 features.

    Args:
        width: number of channels as a multiple of the published one; the features shrink with it only below 1.
        last_stride: stride of the last layer that halves the maps.
    """

    def __init__(self, *, width: float = 1.0, last_stride: int = 2) -> None:
        network = TorchvisionMobileNetV2(width_mult=width)
        super().__init__(network.features, ends=(2, 4, 7, 14, 19), last_stage=14, last_stride=last_stride)


_EFFICIENTNET_B0 = (  # table 1 of the paper: expansion, kernel, stride, channels in and out, layers
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNetB0(_Sequence):
    """EfficientNet-B0 (Tan and Le, ICML 2019): 1,280 features.

    Unlike torchvision's, it drops no layers at random in training: the random numbers of a step are its method's.

    Args:
        width: number of channels, and of features, as a multiple of the published one.
        last_stride: stride of the last stage that halves the maps.
    """

    def __init__(self, *, width: float = 1.0, last_stride: int = 2) -> None:
        stages = [MBConvConfig(*row, width_mult=width) for row in _EFFICIENTNET_B0]
        network = EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.0)
        super().__init__(network.features, ends=(2, 3, 4, 6, 9), last_stage=6, last_stride=last_stride)
