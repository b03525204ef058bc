"""`scripts/record`: the README's first section in a real terminal, as an animated SVG without any script in it."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

from local_stack.processes import wait_for
from tests.first_steps import PROMPT, Person, blocks, enter, installed_and_up
from tests.terminal import Terminal

COLUMNS, ROWS = 110, 30
WIDTH, HEIGHT = 8.4, 19.0  # of a character, in pixels
MARGIN = 14
LONGEST, LAST = 1.6, 6.0  # seconds for which a screen is shown: at most, and the last one
READING = {"submit": 1.0, "show": 4.0, "kill": 1.0}  # seconds for which a person looks before the next line
SGR = re.compile(r"\x1b\[([\d;]*)m")
OTHER_ESCAPES = re.compile(r"\x1b(?:\[[^m]*?[A-LN-Za-ln-z]|[()].|[^\[])|[\x0e\x0f]")
BACKGROUND, FOREGROUND = "#16181d", "#d7dae0"
COLOURS = dict(
    enumerate(["#5c6370", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", FOREGROUND] * 2)
)


@dataclass
class Recording:
    """Screens, each with the moment (seconds) at which it was first seen."""

    screens: list[tuple[float, list[str]]] = field(default_factory=list)

    def look(self, terminal: Terminal) -> None:
        seen = terminal.visible("-e").rstrip("\n").split("\n")
        if not self.screens or self.screens[-1][1] != seen:
            self.screens.append((time.monotonic(), seen))

    def follow(self, terminal: Terminal, line: str) -> None:
        """Type a line, and look until it has ended and been read."""
        terminal.type(line)
        self.look(terminal)
        terminal.press("Enter")
        time.sleep(0.3)
        while terminal.visible().rstrip().splitlines()[-1].strip() != PROMPT.strip():
            self.look(terminal)
            time.sleep(0.15)
        self.look(terminal)
        time.sleep(READING.get(line.split()[1], 0.0))

    def timed(self) -> Iterator[tuple[float, list[str]]]:
        """The screens, and for how many seconds each is shown."""
        for (begun, screen), (ended, _) in pairwise(self.screens):
            yield min(max(ended - begun, 0.5), LONGEST), screen
        yield LAST, self.screens[-1][1]


def recorded() -> Recording:
    """Go through the README's first section, and record its second block."""
    install, (activate, *lines) = blocks()
    recording = Recording()
    with tempfile.TemporaryDirectory(prefix="kelpie-recording-", ignore_cleanup_errors=True) as folder:
        person = Person(Path(folder) / "home")
        with installed_and_up(person, install) as exports, person.terminal((COLUMNS, ROWS)) as terminal:
            for line in [activate, *exports.splitlines()]:
                enter(terminal, line)
            terminal.type("clear")
            terminal.press("Enter")
            wait_for(lambda: terminal.visible().strip() == PROMPT.strip(), "an empty screen")
            for line in lines:
                recording.follow(terminal, line)
    return recording


def drawn(line: str) -> str:
    """A line of a screen, with its colours, as SVG text at the height 0."""
    style: dict[str, str] = {}
    column, parts = 0, []
    pieces = SGR.split(OTHER_ESCAPES.sub("", line))
    for number, piece in enumerate(pieces):
        if number % 2:
            style = styled(style, [int(code or 0) for code in piece.split(";")])
        elif piece:
            if piece.strip():
                place = f'x="{column * WIDTH:.1f}" textLength="{len(piece) * WIDTH:.1f}"'
                look = "".join(f' {name}="{value}"' for name, value in style.items())
                parts.append(f"<text {place}{look}>{escape(piece)}</text>")
            column += len(piece)
    return "".join(parts)


def styled(style: dict[str, str], codes: list[int]) -> dict[str, str]:
    """The attributes of text after the codes of one escape sequence."""
    style = dict(style)
    while codes:
        match codes.pop(0):
            case 0:
                style = {}
            case 1:
                style["font-weight"] = "bold"
            case 2:
                style["opacity"] = "0.65"
            case 22:
                style = {name: value for name, value in style.items() if name not in ("font-weight", "opacity")}
            case 39:
                style.pop("fill", None)
            case 38 if codes[:1] == [5]:
                style["fill"] = COLOURS.get(codes[1], FOREGROUND)
                del codes[:2]
            case code if 30 <= code <= 37:
                style["fill"] = COLOURS[code - 30]
            case code if 90 <= code <= 97:
                style["fill"] = COLOURS[code - 90]
    return style


def as_svg(recording: Recording) -> str:
    """The screens beside each other, moved past a window; each line is drawn once, and used where it is shown."""
    shown = list(recording.timed())
    total = sum(seconds for seconds, _ in shown)
    width, height = COLUMNS * WIDTH + 2 * MARGIN, ROWS * HEIGHT + 2 * MARGIN
    lines: dict[str, int] = {}
    moves, screens, passed = [], [], 0.0
    for number, (seconds, screen) in enumerate(shown):
        moves.append(f"{100 * passed / total:.3f}%{{transform:translateX({-number * width:.0f}px)}}")
        passed += seconds
        used = [
            f'<use href="#l{lines.setdefault(line, len(lines))}" y="{(row + 0.8) * HEIGHT:.1f}"/>'
            for row, line in enumerate(screen)
            if line.strip()
        ]
        screens.append(f'<g transform="translate({number * width + MARGIN:.0f} {MARGIN})">{"".join(used)}</g>')
    last = f"translateX({-(len(shown) - 1) * width:.0f}px)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
            "<title>Kelpie's first steps, recorded by scripts/record</title>",
            "<style>",
            f"text{{font:14px ui-monospace,Menlo,Consolas,monospace;fill:{FOREGROUND};white-space:pre}}",
            *(f'text[fill="{colour}"]{{fill:{colour}}}' for colour in dict.fromkeys(COLOURS.values())),
            f"#s{{transform:{last};animation:s {total:.1f}s step-end infinite}}",
            f"@keyframes s{{{''.join(moves)}}}",
            "@media (prefers-reduced-motion:reduce){#s{animation:none}}",
            "</style>",
            "<defs>",
            *(f'<g id="l{number}">{drawn(line)}</g>' for line, number in lines.items()),
            "</defs>",
            f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
            '<g id="s">',
            *screens,
            "</g>",
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(as_svg(recorded()))
