"""The kernels of networks to measure with: `{name: shape}`, as Flax keeps them."""


def resnet50_kernels() -> dict[str, tuple[int, ...]]:
    """The 54 kernels of ResNet-50, 25,502,912 weights."""
    shapes, channels = {"conv1": (7, 7, 3, 64)}, 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1"] = (1, 1, channels, width)
            shapes[f"{name}.conv2"] = (3, 3, width, width)
            shapes[f"{name}.conv3"] = (1, 1, width, 4 * width)
            if block == 0:
                shapes[f"{name}.downsample"] = (1, 1, channels, 4 * width)
            channels = 4 * width
    return shapes | {"fc": (2048, 1000)}


def resnet18_kernels() -> dict[str, tuple[int, ...]]:
    """The 21 kernels of ResNet-18 for CIFAR, 11,164,352 weights."""
    shapes, channels = {"stem": (3, 3, 3, 64)}, 64
    for stage, width in enumerate([64, 128, 256, 512]):
        for block in range(2):
            name = f"stage{stage}.{block}"
            shapes[f"{name}.conv1"] = (3, 3, channels, width)
            shapes[f"{name}.conv2"] = (3, 3, width, width)
            if channels != width:
                shapes[f"{name}.shortcut"] = (1, 1, channels, width)
            channels = width
    return shapes | {"head": (512, 10)}
