"""RandAugment's operations on batches of uint8 pictures: timm's, which are Pillow's, one call a batch.

Every operation takes pictures (n, 3, H, W) uint8 and an argument a picture (n,) float64 and gives pictures (n, 3, H, W)
uint8. Pillow rounds to uint8 after each one, and so do these. Table look-ups and blends are Pillow's to the value; affine
ones evaluate its cubic (a = -1, edges repeated, cut to the whole number below) in float32 where it takes float64: a whole
number but for rounding may come out one lower or higher.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE, AT_ONCE_ON_CPU = 64, 2  # pictures of an affine operation; on a CPU as few as stay in its cache


def auto_contrast(pictures: Tensor, _: Tensor) -> Tensor:
    """Each channel's darkest value to 0, its lightest to 255; a channel of one value stays."""
    flat = pictures.flatten(2)
    low, high = (each.to(widest(pictures))[..., None] for each in (flat.amin(2), flat.amax(2)))
    values = torch.arange(256, device=pictures.device, dtype=low.dtype)
    scale = 255.0 / (high - low).clamp(min=1)
    table = (values * scale + -low * scale).clamp(0, 255).floor()  # (n, 3, 256)
    return looked_up(pictures, torch.where(high > low, table, values))


def equalize(pictures: Tensor, _: Tensor) -> Tensor:
    """Each channel's histogram made flat, by Pillow's integers."""
    count, channels = pictures.shape[:2]
    flat = pictures.flatten(2).long()
    line = torch.arange(count * channels, device=pictures.device).view(count, channels, 1) * 256
    histogram = torch.bincount((flat + line).flatten(), minlength=count * channels * 256).view(count, channels, 256)
    last = histogram.gather(2, flat.amax(2, keepdim=True))  # the lightest value's
    step = (histogram.sum(2, keepdim=True) - last) // 255
    before = histogram.cumsum(2) - histogram
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return looked_up(pictures, torch.where(step > 0, table, torch.arange(256, device=pictures.device)))


def invert(pictures: Tensor, _: Tensor) -> Tensor:
    return 255 - pictures


def posterize(pictures: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits; none of them is black."""
    lost = (8 - bits.clamp(0, 8)).long()
    mask = (0xFF << lost & 0xFF).to(torch.uint8)
    return pictures & mask.view(-1, 1, 1, 1)


def solarize(pictures: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from `threshold` on."""
    return torch.where(pictures.short() >= threshold.short().view(-1, 1, 1, 1), 255 - pictures, pictures)


def solarize_add(pictures: Tensor, added: Tensor) -> Tensor:
    """Add to the values below 128."""
    wide = pictures.short()
    return torch.where(wide < 128, (wide + added.short().view(-1, 1, 1, 1)).clamp(max=255), wide).to(torch.uint8)


def color(pictures: Tensor, factor: Tensor) -> Tensor:
    return blended(grey(pictures).float(), pictures, factor)


def contrast(pictures: Tensor, factor: Tensor) -> Tensor:
    """Towards the rounded mean of the grey picture."""
    mean = (grey(pictures).flatten(1).to(widest(pictures)).mean(1) + 0.5).floor()
    return blended(mean.float().view(-1, 1, 1, 1), pictures, factor)


def brightness(pictures: Tensor, factor: Tensor) -> Tensor:
    return blended(torch.zeros((), device=pictures.device), pictures, factor)


def sharpness(pictures: Tensor, factor: Tensor) -> Tensor:
    """From Pillow's SMOOTH, ((1 1 1) (1 5 1) (1 1 1)) / 13 rounded; the outermost pixels stay as they are."""
    wide = pictures.float()
    if min(wide.shape[-2:]) < 3:
        return blended(wide, pictures, factor)
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    smooth = wide.clone()
    smooth[..., 1:-1, 1:-1] = (total / 13 + 0.5).floor()  # never at a half: 13 is odd
    return blended(smooth, pictures, factor)


def rotate(pictures: Tensor, degrees: Tensor, fill: Tensor, cubic: Tensor) -> Tensor:
    """Counter-clockwise about the centre."""
    height, width = pictures.shape[-2:]
    angle = torch.deg2rad(-degrees)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return affine(pictures, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y), fill, cubic)


def shear_x(pictures: Tensor, factor: Tensor, fill: Tensor, cubic: Tensor) -> Tensor:
    one, none = torch.ones_like(factor), torch.zeros_like(factor)
    return affine(pictures, (one, factor, none, none, one, none), fill, cubic, "x")


def shear_y(pictures: Tensor, factor: Tensor, fill: Tensor, cubic: Tensor) -> Tensor:
    one, none = torch.ones_like(factor), torch.zeros_like(factor)
    return affine(pictures, (one, none, none, factor, one, none), fill, cubic, "y")


def translate_x(pictures: Tensor, share: Tensor, fill: Tensor, cubic: Tensor) -> Tensor:
    one, none = torch.ones_like(share), torch.zeros_like(share)
    return affine(pictures, (one, none, share * pictures.shape[-1], none, one, none), fill, cubic, "x")


def translate_y(pictures: Tensor, share: Tensor, fill: Tensor, cubic: Tensor) -> Tensor:
    one, none = torch.ones_like(share), torch.zeros_like(share)
    return affine(pictures, (one, none, none, none, one, share * pictures.shape[-2]), fill, cubic, "y")


POINTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "PosterizeIncreasing": posterize,
    "Solarize": solarize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "ColorIncreasing": color,
    "Contrast": contrast,
    "ContrastIncreasing": contrast,
    "Brightness": brightness,
    "BrightnessIncreasing": brightness,
    "Sharpness": sharpness,
    "SharpnessIncreasing": sharpness,
}
GEOMETRIC: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "Rotate": rotate,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}


def widest(tensor: Tensor) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def grey(pictures: Tensor) -> Tensor:
    """Pillow's L (n, 1, H, W) int32, of ITU-R 601 in 16-bit fixed point."""
    red, green, blue = pictures.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unsqueeze(1)


def blended(plain: Tensor, pictures: Tensor, factor: Tensor) -> Tensor:
    """`plain` + factor x (picture - plain), cut to 0..255 and to the whole number below: Pillow's Image.blend."""
    wide = pictures.float()
    return (plain + factor.float().view(-1, 1, 1, 1) * (wide - plain)).clamp_(0, 255).to(torch.uint8)


def looked_up(pictures: Tensor, table: Tensor) -> Tensor:
    """Each value replaced by its entry in the channel's table (n, 3, 256)."""
    return table.to(torch.uint8).gather(2, pictures.flatten(2).long()).view_as(pictures)


def affine(pictures: Tensor, matrix: tuple[Tensor, ...], fill: Tensor, cubic: Tensor, axes: str = "xy") -> Tensor:
    """Pillow's Image.transform(AFFINE): the pixel whose centre is (x, y) shows the source at (a x + b y + c, d x + e y + f);
    `fill` (3,) uint8 where that lies outside. `cubic` (n,) bool, on the CPU: bicubic, else bilinear. `axes`: along which pixels
    move; along the other they stay on their centres, where the neighbours' weights are 0."""
    parts = []
    at_once = AT_ONCE_ON_CPU if pictures.device.type == "cpu" else AT_ONCE
    for some in torch.arange(len(pictures)).split(at_once):
        for kind in (True, False):
            chosen = some[cubic[some] == kind].to(pictures.device)
            if len(chosen):
                parts.append((chosen, taken(pictures[chosen], [each[chosen] for each in matrix], fill, kind, axes)))
    out = torch.empty_like(pictures)
    for chosen, made in parts:
        out[chosen] = made
    return out


def taken(pictures: Tensor, matrix: list[Tensor], fill: Tensor, cubic: bool, axes: str) -> Tensor:
    """`affine` of pictures of one kind of interpolation."""
    count, channels, height, width = pictures.shape
    kind = widest(pictures)
    a, b, c, d, e, f = (each.to(kind).view(-1, 1, 1) for each in matrix)
    across = torch.arange(width, device=pictures.device, dtype=kind) + 0.5
    down = (torch.arange(height, device=pictures.device, dtype=kind) + 0.5)[:, None]
    x, y = a * across + b * down + c, d * across + e * down + f  # (n, H, W)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    reach = range(-1, 3) if cubic else range(2)
    columns = [(left.long() + by).clamp_(0, width - 1) for by in reach]
    lines = [(top.long() + by).clamp_(0, height - 1) * width for by in reach]
    still = reach.index(0)
    columns = columns if "x" in axes else columns[still : still + 1]
    lines = lines if "y" in axes else lines[still : still + 1]
    across, down = ((at - 0.5 - whole).float().view(count, 1, -1) for at, whole in ((x, left), (y, top)))  # of [0, 1)
    flat = pictures.flatten(2).float()  # (n, 3, H W)

    def row(line: Tensor) -> Tensor:
        places = ((line + column).view(count, 1, -1).expand(-1, channels, -1) for column in columns)
        return between([flat.gather(2, place) for place in places], across)

    total = between([row(line) for line in lines], down)
    made = total.clamp_(0, 255).to(torch.uint8).view_as(pictures)
    return torch.where(outside[:, None], fill.view(1, -1, 1, 1), made)


def between(values: list[Tensor], t: Tensor) -> Tensor:
    """The value t of the way from the second of four neighbours to the third (of two, from the first; of one, that one), by
    Pillow's own expressions: where neighbours are equal they give that very value."""
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        first, second = values
        return torch.addcmul(first, second - first, t)
    one, two, three, four = values
    bend = two - one - three + four
    lift = 2 * (one - two) + three - four
    # two + t (three - one + t (lift + t bend)), innermost first
    return torch.addcmul(two, torch.addcmul(three - one, torch.addcmul(lift, bend, t), t), t)
