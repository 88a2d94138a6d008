"""HTML as plain text: paragraphs apart, lists as lists, and code as it stands. Parsed by Beautiful Soup; imports no ML library."""

import re
import warnings
from typing import Any

from rewards.data.unusable import BadRow

BLOCKS = frozenset(
    [
        "p",
        "div",
        "ul",
        "ol",
        "table",
        "tr",
        "blockquote",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "dl",
        "dt",
        "dd",
        "details",
        "summary",
    ]
)
"""Elements that begin and end a paragraph."""
SILENT = frozenset(["script", "style", "head", "template"])
FENCE = "```"
SPACES = re.compile(r"[ \t\r\n\f]+")
"""What HTML shows as one space. A no-break space is none of them."""


def html_to_text(html: str) -> str:
    """The text of a piece of HTML. Blocks of code are fenced as in Markdown, code in a line has backticks, items of lists a dash.

    Raises BadRow if nobody could read it.
    """
    import bs4  # takes 50 ms, which only this format needs

    pieces: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)  # an answer may be nothing but an address
            warnings.simplefilter("ignore", bs4.XMLParsedAsHTMLWarning)
            parsed = bs4.BeautifulSoup(html, "html.parser")
        _write(parsed, pieces)
    except RecursionError:
        raise BadRow("HTML that is nested too deeply") from None
    except bs4.ParserRejectedMarkup:
        raise BadRow("HTML that cannot be parsed") from None
    blocks = "".join(pieces).split("\0")  # even ones are text, odd ones code
    texts = [block if number % 2 else _tidy(block) for number, block in enumerate(blocks)]
    return re.sub(r"\n{3,}", "\n\n", "".join(texts)).strip() if len(blocks) == 1 else "".join(texts).strip()


def _write(node: Any, pieces: list[str]) -> None:
    """Add the text of everything in an element. Code is set off by NUL, which HTML cannot hold."""
    from bs4.element import NavigableString, PreformattedString, Tag

    for child in node.children:
        if isinstance(child, PreformattedString):  # comments, declarations
            continue
        if isinstance(child, NavigableString):
            pieces.append(SPACES.sub(" ", str(child).replace("\0", "")))
        elif isinstance(child, Tag) and child.name not in SILENT:
            _write_element(child, pieces)


def _write_element(element: Any, pieces: list[str]) -> None:
    if element.name == "pre":
        for line_end in element.find_all("br"):
            line_end.replace_with("\n")
        code = element.get_text().replace("\0", "").strip("\n")
        pieces.append(f"\n\n\0{FENCE}\n{code}\n{FENCE}\0\n\n")
    elif element.name == "code":
        code = SPACES.sub(" ", element.get_text().replace("\0", ""))
        pieces.append(f"`{code}`")
    elif element.name == "br":
        pieces.append("\n")
    elif element.name == "li":
        pieces.append("\n- ")
        _write(element, pieces)
    elif element.name in BLOCKS:
        pieces.append("\n\n")
        _write(element, pieces)
        pieces.append("\n\n")
    elif element.name in ("td", "th"):
        _write(element, pieces)
        pieces.append(" | ")
    else:
        _write(element, pieces)


def _tidy(text: str) -> str:
    """Without spaces around ends of lines, and with at most one blank line between paragraphs; a dash stays with its item."""
    text = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", text))
    text = re.sub(r"\n- *\n+", "\n- ", text)
    return re.sub(r"\n{3,}", "\n\n", text)
