"""Where the time of an evaluation goes."""

from reactvl.heads.features import Clock


class Watch:
    """Seconds by what was done, and images that were encoded now."""

    def __init__(self, precision: str):
        self.precision = precision
        self.clock = Clock()
        self.seconds: dict[str, float] = {"loading models": 0.0, "text tower": 0.0, "scoring": 0.0}
        self.encoded = 0

    def parts(self) -> dict[str, float]:
        """Seconds by part, the towers and the wait for data among them."""
        return {"image tower": self.clock.model, "waiting for images": self.clock.data} | self.seconds

    def timing(self) -> dict[str, float]:
        """As `timing.json` has it."""
        found = {f"{name.replace(' ', '_')}_seconds": seconds for name, seconds in self.parts().items()}
        if self.encoded:
            found["images_per_second"] = self.encoded / max(self.clock.data + self.clock.model, 1e-9)
        return found
