"""Each model by name has the size that its source gives, and takes the usual images; norms are put in their place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import Launch, forked, long
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_bench.config.compose import options
from fl_bench.config.named import known
from fl_bench.errors import ConfigError
from fl_bench.models.chosen import model_of

OTHERS = ("hf", "mlp", "cnn1d", "gru", "lstm", "fasttext")  # no name of its own; and those that take no images
DIGIT, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 96, 96)
NAMED = [name for name, file in options("model").items() if "_target_" in OmegaConf.load(file) and name not in OTHERS]
NORMED = [name for name in NAMED if "norm" in OmegaConf.load(options("model")[name]) and name != "blitz"]


def node(option: str, /, **keys: Any) -> DictConfig:
    found = OmegaConf.load(options("model")[option])
    assert isinstance(found, DictConfig)
    return OmegaConf.merge(found, keys)  # type: ignore[return-value]


def make(option: str, shape: tuple[int, ...] = COLOUR, /, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    return model_of(node(option, **keys), 10, shape=shape)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("logistic", DIGIT, 784 * 10 + 10),
        ("blitz", COLOUR, 62_006),  # 3*6*25+6 + 6*16*25+16 + 400*120+120 + 120*84+84 + 84*10+10
        ("mcmahan_cnn", DIGIT, 1_663_370),  # the paper's number
        ("flgo_cnn", COLOUR, 797_962),  # 4864 + 102464 + 1600*384+384 + 384*192+192 + 192*10+10
        (
            "moderate_cnn",
            COLOUR,
            1_126_080 + 4096 * 512 + 512 + 512 * 512 + 512 + 5130,
        ),  # six convolutions, three layers
        ("pfl_cnn", COLOUR, 896 + 18_496 + 14 * 14 * 64 * 128 + 128 + 1290),
        ("lenet5", DIGIT, 61_706),  # 156 + 2416 + 400*120+120 + 10164 + 850
        ("resnet8", COLOUR, 75_290),  # 432+32 + 4608+64 + 13824+128 + 55296+256 + 650
        ("resnet20", COLOUR, 269_722),  # the paper: 0.27 million
        ("resnet18", COLOUR, 11_181_642 - 3 * 64 * 49 + 3 * 64 * 9),  # torchvision's, with another first kernel
        ("resnet34", COLOUR, 21_289_802 - 3 * 64 * 49 + 3 * 64 * 9),
        ("vgg11", COLOUR, 9_220_480 + 2 * 2752 + 512 * 10 + 10),  # torchvision's features, BatchNorm's 2 per channel
        ("mobilenet", COLOUR, 2_223_872 + 1280 * 10 + 10),  # torchvision's features
        ("vit_tiny", COLOUR, 9_600 + 65 * 192 + 12 * 444_864 + 384 + 1_930),  # the embedding, places, 12 blocks, ends
        ("torchvision", COLOUR, 11_181_642),
    ],
)
def test_the_sizes_are_those_of_the_sources(name: str, shape: tuple[int, ...], count: int) -> None:
    assert sum(parameter.numel() for parameter in make(name, shape).parameters()) == count


@pytest.mark.parametrize(
    "name", [name for name in NAMED if name not in ("resnet34", "vgg11", "trees") and not name.startswith("char_")]
)
def test_images_of_the_usual_shapes_are_taken(name: str) -> None:
    for shape in (DIGIT, LARGE):
        assert make(name, shape).eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_resnet18_is_torchvisions_with_another_beginning() -> None:
    ours, theirs = make("resnet18"), torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
        images = torch.randn(2, *COLOUR)
        assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-5)


def test_option_a_keeps_every_second_pixel_and_adds_zeros() -> None:
    from fl_bench.models.resnet import Halved

    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Halved(1)(images).tolist() == [[[[0, 2], [8, 10]], [[0, 0], [0, 0]]]]


@pytest.mark.parametrize("name", [name for name in NORMED if name != "resnet34"])
def test_other_norms_take_the_place_of_every_batchnorm(name: str) -> None:
    counts = [layer.num_features for layer in make(name).modules() if isinstance(layer, _BatchNorm)]
    for norm, groups in (("group", None), ("layer", 1), ("none", None)):
        model = make(name, norm=norm)
        assert not any(isinstance(layer, _BatchNorm) for layer in model.modules())
        found = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
        assert [layer.num_channels for layer in found] == ([] if norm == "none" else counts)
        assert {layer.num_groups for layer in found} <= ({groups} if groups else {32, 16, 8, 4, 2, 1})
        assert torch.isfinite(model(torch.rand(1, *COLOUR))).all()  # in training too, of a single example


def test_groups_by_hand() -> None:
    groups = [layer.num_groups for layer in make("resnet8", norm="group").modules() if isinstance(layer, nn.GroupNorm)]
    assert groups == [16, 16, 16, 32, 32, 32, 32]
    groups = [layer.num_groups for layer in make("blitz", norm="group").modules() if isinstance(layer, nn.GroupNorm)]
    assert groups == [2, 2]
    assert [type(layer) for layer in make("resnet8", norm="batch").modules()].count(nn.BatchNorm2d) == 7


@pytest.mark.parametrize(
    ("name", "shape", "keys", "line"),
    [
        ("blitz", (10,), {}, "model: blitz takes images of 16 x 16 pixels or more, not examples of shape [10]"),
        ("vgg11", DIGIT, {}, "model: vgg11 takes images of 32 x 32 pixels or more, not examples of shape [1, 28, 28]"),
        ("vit_tiny", COLOUR, {"patch": 5}, "model.patch=5: must divide the sides of square images, and these are 32 x"),
        ("resnet8", COLOUR, {"norm": "groups"}, "model.norm=groups: must be one of batch, group, layer, none, or null"),
        ("resnet8", COLOUR, {"depth": 3}, "model.depth: unknown key; "),
        ("torchvision", COLOUR, {"name": "resnet5"}, "model.name=resnet5: did you mean resnet50?"),
        ("torchvision", COLOUR, {"name": "vit_b_16"}, "model: vit_b_16 cannot take images of shape [3, 32, 32]: "),
        ("torchvision", COLOUR, {"name": "alexnet", "norm": "group"}, "model: alexnet cannot take images of shape "),
        (
            "torchvision",
            LARGE,
            {"name": "alexnet", "norm": "group"},
            "model.norm=group: AlexNet has no BatchNorm in whose",
        ),
    ],
)
def test_what_cannot_be_is_one_line(name: str, shape: tuple[int, ...], keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(name, shape, **keys)
    assert str(error.value).startswith(line)


def test_the_names_found_in_its_files_are_those_of_torchvision() -> None:
    assert known() == {*torchvision.models.list_models(module=torchvision.models)}


@pytest.mark.parametrize(("name", "shape"), [("resnet18", DIGIT), ("googlenet", COLOUR), ("shufflenet_v2_x0_5", DIGIT)])
def test_torchvisions_models_take_any_channels_and_give_scores(name: str, shape: tuple[int, ...]) -> None:
    assert make("torchvision", shape, name=name).train()(torch.rand(2, *shape)).shape == (2, 10)


def test_a_pretrained_classifier_of_transformers_gets_a_new_head(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=3, **sizes)
    theirs = transformers.ViTForImageClassification(config)
    theirs.save_pretrained(tmp_path)
    ours = make("hf", path=str(tmp_path))
    assert ours(torch.rand(2, *COLOUR)).shape == (2, 10)
    now = ours.state_dict()
    kept = {name for name, tensor in theirs.state_dict().items() if torch.equal(tensor, now[f"body.{name}"])}
    assert kept == {name for name in theirs.state_dict() if not name.startswith("classifier.")}
    with pytest.raises(ConfigError, match=r"cannot take images of shape \[1, 28, 28\]: "):
        make("hf", DIGIT, path=str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"model\.path=nowhere/at/all: cannot be loaded \(it is no folder, and of the hub: "
    ):
        make("hf", path="nowhere/at/all")


def test_a_run_names_its_model_and_says_how_large_it_is(launch: Launch) -> None:
    small = ("task=images", "data=synthetic", "data.num_samples=40", "num_clients=2", "num_rounds=1", "local.steps=1")
    folder = launch(*small, "model=mcmahan_cnn", "local.batch_size=2")
    size = json.loads((folder / "run.json").read_text())["model"]
    # a product counts two; forward [32, 75, 1024], [64, 800, 256], [4096, 512], [512, 10] for each of two images;
    # backward twice as much, but for the gradient of the images
    first, rest = 2 * 32 * 75 * 1024, 2 * (64 * 800 * 256 + 4096 * 512 + 512 * 10)
    assert size == {"parameters": 2_156_490, "flops_per_step": 2 * (2 * first + 3 * rest)}
    folder = launch(*small, "model=resnet8", "model.norm=group", "engine.vectorize=2")
    assert (folder / "model.safetensors").exists()


@long
def test_torchvisions_names_are_words_in_sweeps_too(tmp_path: Path) -> None:
    words = [
        "-m",
        "sweep.parallel=1",
        "task=images",
        "model=lenet5,squeezenet1_1",
        "data=synthetic",
        "data.num_samples=20",
        "num_rounds=1",
    ]
    more = ["num_clients=2", "engine=inline", "figures=false", "local.steps=1", "hydra.sweep.dir=runs"]
    done = forked(*words, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "runs" / "model=squeezenet1_1" / ".hydra" / "config.yaml").read_text()
    assert "name: squeezenet1_1" in text
    done = forked("task=images", "model=resnet5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "fl-bench: model=resnet5: did you mean resnet8?\n")


def test_a_batch_of_one_that_batchnorm_cannot_take_is_refused(
    launch: Launch, refused: Callable[..., str], tmp_path: Path
) -> None:
    for number in range(22):
        file = tmp_path / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 10 * number).save(file)
    words = ("task=images", "data=folder", f"data.root={tmp_path}", "model=resnet8", "num_clients=2", "num_rounds=1",
             "partition.holdout=0", "stop_on_divergence=false")  # fmt: skip
    line = "clients have a batch of one, of which BatchNorm knows no variance; take another, or model.norm=group"
    assert f"fl-bench: local.batch_size=3: 2 of 2 {line}" in refused(*words, "local.batch_size=3")  # of 10: 3, 3, 3, 1
    assert f"fl-bench: local.batch_size=1: 2 of 2 {line}" in refused(*words, "local.batch_size=1")
    launch(*words, "local.batch_size=4")
    launch(*words, "local.batch_size=3", "local.steps=3")
    launch(*words, "local.batch_size=3", "model.norm=group")
    launch(*words, "local.batch_size=1", "data.size=8")  # of a map of 2 x 2 there is a variance
