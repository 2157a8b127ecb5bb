"""A diffusers Stable Diffusion folder as the mesh sees it: what it holds, its sizes, its digests.

Every service opens the folder at start, so this file says what is wrong with one in words that
name the remedy, and imports nothing heavy.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast, get_args

from ..errors import ModelNotReady
from .weights import WeightStore, find_weight_files

ModuleName: TypeAlias = Literal["text_encoder", "vae_encoder", "unet", "vae_decoder"]
Config: TypeAlias = Mapping[str, Any]

MODULE_NAMES: tuple[ModuleName, ...] = get_args(ModuleName)

MANIFEST_NAME = "sangsang.json"
_INDEX_NAME = "model_index.json"
# The components that a folder must have, with the classes that the exporters know.
_CLASSES: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
_COMPONENTS: Mapping[ModuleName, str] = {
    "text_encoder": "text_encoder",
    "vae_encoder": "vae",
    "unet": "unet",
    "vae_decoder": "vae",
}
_WEIGHT_STEMS: Mapping[str, str] = {
    "text_encoder": "model",
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
}
_SERVED_CONDITIONING: Mapping[str, tuple[object, ...]] = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
    "addition_embed_type": (None, "text"),
    "encoder_hid_dim_type": (None, "text_proj"),
}
# Stable Diffusion's own defaults, for configurations older than the fields.
_DEFAULT_SCALING_FACTOR = 0.18215
_DEFAULT_SAMPLE_SIZE = 64
_DEFAULT_TOKEN_LIMIT = 77


@dataclass(frozen=True)
class ModelFolder:
    """One diffusers folder, checked. Make it with `ModelFolder.open`.

    Attributes:
        path: the folder.
        model_id: name under which it is served: the manifest's, else the folder's own.
        unet_config: `unet/config.json`.
        vae_config: `vae/config.json`.
        text_encoder_config: `text_encoder/config.json`.
        scheduler_config: `scheduler/scheduler_config.json`.
        tokenizer_config: `tokenizer/tokenizer_config.json`; empty when the file is absent.
        unet_name: folder of the UNet inside `path`; another one holds other weights for it.
    """

    path: Path
    model_id: str
    unet_config: Config
    vae_config: Config
    text_encoder_config: Config
    scheduler_config: Config
    tokenizer_config: Config
    unet_name: str = "unet"

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """Returns the folder at `path`, its configurations read and its weights' headers checked.

        Raises:
            ModelNotReady: it is not a Stable Diffusion folder with safetensors weights; the
                message says what is wrong and what to do.
        """
        path = Path(path)
        if not path.is_dir():
            raise ModelNotReady(f"{path} is not a folder")
        _check_index(path)
        folder = cls(
            path=path,
            model_id=_model_id(path),
            unet_config=_read_config(path / "unet" / "config.json"),
            vae_config=_read_config(path / "vae" / "config.json"),
            text_encoder_config=_read_config(path / "text_encoder" / "config.json"),
            scheduler_config=_read_config(path / "scheduler" / "scheduler_config.json"),
            tokenizer_config=_read_config(
                path / "tokenizer" / "tokenizer_config.json", required=False
            ),
        )
        for module in MODULE_NAMES:
            folder.weights(module)
        folder.check_sizes()
        return folder

    @cached_property
    def latent_channels(self) -> int:
        """Channels of the latents, e.g. 4."""
        return int(self.vae_config.get("latent_channels", 4))

    @cached_property
    def vae_scale(self) -> int:
        """Pixels per latent along each side, e.g. 8."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @cached_property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied by before they are diffused."""
        return float(self.vae_config.get("scaling_factor") or _DEFAULT_SCALING_FACTOR)

    @cached_property
    def shift_factor(self) -> float:
        """What is subtracted from the VAE's latents before they are scaled."""
        return float(self.vae_config.get("shift_factor") or 0.0)

    @cached_property
    def token_limit(self) -> int:
        """Tokens of a padded prompt, start and end included."""
        encoder = self._text_value("max_position_embeddings", _DEFAULT_TOKEN_LIMIT)
        # Tokenizers without a limit of their own state 1e30.
        tokenizer = self.tokenizer_config.get("model_max_length") or encoder
        return int(min(encoder, tokenizer))

    @cached_property
    def vocabulary_size(self) -> int:
        """Tokens that the text encoder knows."""
        return int(self._text_value("vocab_size", 49408))

    @cached_property
    def embedding_width(self) -> int:
        """Width of one token's embedding."""
        return int(self._text_value("hidden_size", 512))

    @cached_property
    def size_multiple_px(self) -> int:
        """What width and height must be multiples of: the latents halve evenly at each level."""
        return self.vae_scale * 2 ** (len(self.unet_config["block_out_channels"]) - 1)

    @cached_property
    def default_width_px(self) -> int:
        """Width of the pictures that the model was trained on."""
        return self._sample_size[1] * self.vae_scale

    @cached_property
    def default_height_px(self) -> int:
        """Height of the pictures that the model was trained on."""
        return self._sample_size[0] * self.vae_scale

    def config(self, module: ModuleName) -> Config:
        """Returns the configuration of the component that `module` belongs to."""
        if module == "unet":
            return self.unet_config
        return self.text_encoder_config if module == "text_encoder" else self.vae_config

    def with_unet(self, name: str) -> "ModelFolder":
        """Returns this model with the UNet of another of its folders, e.g. `student_unet`.

        Raises:
            ModelNotReady: that folder holds no UNet of the same architecture.
        """
        config = _read_config(self.path / name / "config.json")
        differing = _differing_fields(self.unet_config, config)
        if differing:
            raise ModelNotReady(
                f"{self.path / name} is another architecture than unet/: "
                f"{', '.join(differing)} differ"
            )
        other = replace(self, unet_name=name, unet_config=config)
        other.weights("unet")
        return other

    def label(self, module: ModuleName) -> str:
        """Returns the module's name, for a further UNet its folder's: builds lie under it."""
        return self.unet_name if module == "unet" else module

    def component_path(self, module: ModuleName) -> Path:
        """Returns the folder of the component: both VAE modules share `vae/`."""
        return self.path / (self.unet_name if module == "unet" else _COMPONENTS[module])

    def weight_files(self, module: ModuleName) -> tuple[Path, ...]:
        """Returns the safetensors files that hold the module's weights.

        Raises:
            ModelNotReady: they are missing, or pickle.
        """
        return find_weight_files(self.component_path(module), _WEIGHT_STEMS[_COMPONENTS[module]])

    def weights(self, module: ModuleName) -> WeightStore:
        """Returns the weights of the component, by state-dict name; nothing is read yet.

        Raises:
            ModelNotReady: they are missing, pickle, or damaged.
        """
        return WeightStore(self.weight_files(module))

    def digest(self, module: ModuleName) -> str:
        """Returns the sha256, in hex, of all that decides what the module computes.

        That is its configuration and weights, for the text encoder the tokenizer too. Files are
        hashed once in a process, so the first call takes as long as reading them.
        """
        files = [self.component_path(module) / "config.json", *self.weight_files(module)]
        if module == "text_encoder":
            files += sorted(p for p in (self.path / "tokenizer").iterdir() if p.is_file())
        total = hashlib.sha256(module.encode())
        for file in files:
            stat = file.stat()
            total.update(f"\n{file.name} ".encode())
            total.update(_file_sha256(file, stat.st_size, stat.st_mtime_ns).encode())
        return total.hexdigest()

    def check_sizes(self) -> None:
        """Checks that the components fit together.

        Raises:
            ModelNotReady: a size is missing or two components disagree.
        """
        try:
            context = self.unet_config.get("encoder_hid_dim") or self.unet_config.get(
                "cross_attention_dim"
            )
            facts = (self.vae_scale, self.size_multiple_px, self.token_limit, self._sample_size)
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelNotReady(f"{self.path} has an incomplete configuration: {exc}") from exc
        channels = self.unet_config.get("in_channels", 4)
        if channels != self.latent_channels:
            raise ModelNotReady(
                f"{self.path}: the UNet takes {channels} channels and the VAE makes "
                f"{self.latent_channels}; only plain text-to-image UNets are served"
            )
        self._check_conditioning()
        if isinstance(context, int) and context != self.embedding_width:
            raise ModelNotReady(
                f"{self.path}: the UNet expects embeddings of width {context} and the text "
                f"encoder makes {self.embedding_width} (sizes: {facts})"
            )

    def _check_conditioning(self) -> None:
        # Each of these makes the UNet wait for an input that no stage sends.
        for field, served in _SERVED_CONDITIONING.items():
            value = self.unet_config.get(field)
            if value not in served:
                raise ModelNotReady(
                    f"{self.path}: a UNet with {field}={value!r} is not served; it needs an "
                    "input besides latents, timestep and text"
                )
        if self.text_encoder_config.get("use_attention_mask"):
            raise ModelNotReady(
                f"{self.path}: use_attention_mask in the text encoder is not served"
            )

    @cached_property
    def _sample_size(self) -> tuple[int, int]:
        size = self.unet_config.get("sample_size") or _DEFAULT_SAMPLE_SIZE
        if isinstance(size, int):
            return size, size
        height, width = (int(n) for n in size)
        return height, width

    def _text_value(self, name: str, default: int) -> int:
        config = self.text_encoder_config
        # A full CLIP configuration nests the text half.
        nested = cast(Config, config.get("text_config") or {})
        return int(config.get(name) or nested.get(name) or default)


def _check_index(path: Path) -> None:
    if not (path / _INDEX_NAME).is_file():
        raise ModelNotReady(
            f"{path} has no {_INDEX_NAME}: it is not a diffusers folder. Save one with "
            "StableDiffusionPipeline.save_pretrained(folder)"
        )
    index = _read_config(path / _INDEX_NAME)
    name = index.get("_class_name")
    if name != "StableDiffusionPipeline":
        raise ModelNotReady(f"{path} is a {name}; only StableDiffusionPipeline folders are served")
    for component, classes in _CLASSES.items():
        entry = index.get(component)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if kind not in classes:
            raise ModelNotReady(
                f"{path}: {component} is {kind or 'missing'}; expected {' or '.join(classes)}"
            )
        if not (path / component).is_dir():
            raise ModelNotReady(f"{path} lacks the folder {component}/; copy it again")


def _read_config(file: Path, *, required: bool = True) -> Config:
    if not file.is_file():
        if not required:
            return MappingProxyType({})
        raise ModelNotReady(f"{file} is missing; copy the folder again")
    try:
        value: object = json.loads(file.read_text("utf-8"))
    except ValueError as exc:
        raise ModelNotReady(f"{file} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ModelNotReady(f"{file} must hold a JSON object")
    return MappingProxyType(cast(dict[str, Any], value))


def _differing_fields(one: Config, other: Config) -> list[str]:
    # Fields with an underscore say who wrote the file, not what it describes.
    names = sorted(name for name in {*one, *other} if not name.startswith("_"))
    return [name for name in names if one.get(name) != other.get(name)]


def _model_id(path: Path) -> str:
    stated = _read_config(path / MANIFEST_NAME, required=False).get("model_id")
    return stated if isinstance(stated, str) and stated else path.resolve().name


@lru_cache(maxsize=256)
def _file_sha256(file: Path, size_bytes: int, modified_ns: int) -> str:
    # Size and time are only there to notice that a file has been replaced.
    del size_bytes, modified_ns
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
