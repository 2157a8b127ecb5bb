"""What is written into a picture besides its pixels: how it was made, and that it was generated.

Two readers are served. Galleries and front ends read the line that AUTOMATIC1111's web UI writes;
programs read the same facts as JSON. The mark is the IPTC's digital source type, in XMP, where
platforms look for it. Nothing here depends on the clock, so the same picture has the same bytes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

GENERATED_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
JSON_KEY = "sangsang"
A1111_KEY = "parameters"

_XMP_KEY = "XML:com.adobe.xmp"
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_A1111_NAMES = {
    "step_count": "Steps",
    "scheduler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "model_id": "Model",
    "strength": "Denoising strength",
}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:sangsang="https://imaging.sangsang.dev/xmp/1.0/">{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fact of how the picture was made.

    Attributes:
        name: e.g. `step_count`.
        value: as text.
    """

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class PictureMetadata:
    """What to write into a picture.

    Attributes:
        parameters: how it was made, in this order; may be empty.
        marked: whether to say that it was generated.
    """

    parameters: Sequence[Parameter] = ()
    marked: bool = True

    def to_png(self) -> PngInfo:
        """Returns the text chunks of a PNG."""
        chunks = PngInfo()
        if self.parameters:
            # Becomes iTXt by itself where Latin-1 does not suffice, as A1111's does.
            chunks.add_text(A1111_KEY, a1111_line(self.parameters))
            chunks.add_itxt(JSON_KEY, to_json(self.parameters))
        if self.marked:
            chunks.add_itxt(_XMP_KEY, self.to_xmp(with_parameters=False).decode())
        return chunks

    def to_exif(self) -> bytes:
        """Returns EXIF with the A1111 line as user comment; empty without parameters."""
        if not self.parameters:
            return b""
        exif = Image.Exif()
        # Big-endian like the EXIF around it; readers disagree on what else it could be.
        line = a1111_line(self.parameters).encode("utf-16-be")
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + line
        return exif.tobytes()

    def to_xmp(self, *, with_parameters: bool = True) -> bytes:
        """Returns an XMP packet; empty when it would say nothing."""
        properties = ""
        if self.marked:
            properties += _property("Iptc4xmpExt:DigitalSourceType", GENERATED_SOURCE_TYPE)
        if with_parameters and self.parameters:
            properties += _property("sangsang:parameters", to_json(self.parameters))
        return _XMP.format(properties=properties).encode() if properties else b""


def to_json(parameters: Sequence[Parameter]) -> str:
    """Returns the parameters as a JSON object, exactly as they were given."""
    pairs = {parameter.name: parameter.value for parameter in parameters}
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    # The two characters that JSON passes and XML does not.
    return text.replace("\ufffe", r"\ufffe").replace("\uffff", r"\uffff")


def a1111_line(parameters: Sequence[Parameter]) -> str:
    """Returns the parameters as AUTOMATIC1111's web UI writes them: prompts, then one line."""
    values = {parameter.name: parameter.value for parameter in parameters}
    prompt, negative = values.pop("prompt", ""), values.pop("negative_prompt", "")
    lines = [prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    if "width_px" in values and "height_px" in values:
        values["size"] = f"{values.pop('width_px')}x{values.pop('height_px')}"
    known = [name for name in _A1111_NAMES if name in values]
    others = [name for name in values if name not in _A1111_NAMES]
    facts = [f"{_A1111_NAMES.get(name, name)}: {_quoted(values[name])}" for name in known + others]
    lines.append(", ".join(facts))
    return _CONTROLS.sub(" ", "\n".join(lines))


def _quoted(value: str) -> str:
    needs_quotes = any(mark in value for mark in ",:\n")
    return json.dumps(value, ensure_ascii=False) if needs_quotes else value


def _property(name: str, text: str) -> str:
    return f"\n   <{name}>{escape(text)}</{name}>"
