"""HTML as text: what is read stays, what only formats goes, and code is not touched."""

import random
from contextlib import suppress

import pytest

from rewards.data.formats.html_text import html_to_text
from rewards.data.unusable import BadRow


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\ntwo <em>three</em></p>\n\n<p>four</p>\n", "One two three\n\nfour"),
        ("<p>a<br>b<br/>c</p>", "a\nb\nc"),
        ("<p>Do:</p>\n<ul>\n<li>this</li>\n<li><p>that</p></li>\n</ul>\n<p>end</p>", "Do:\n\n- this\n- that\n\nend"),
        ("<p>x</p><pre><code>if a &lt; b:\n\n\n    print( 1 )\n</code></pre><p>y</p>", "x\n\n```\nif a < b:\n\n\n    print( 1 )\n```\n\ny"),
        ("<pre>a<br>b<br/>\nc</pre>", "```\na\nb\n\nc\n```"),
        ("<p>call <code>f(x)</code> &amp; go</p>", "call `f(x)` & go"),
        ("<p>ก่อน&nbsp;หลัง</p><script>bad()</script><!-- note -->", "ก่อน\u00a0หลัง"),
        ("<blockquote><p>said</p></blockquote><p>no</p>", "said\n\nno"),
        ("<h1>Title</h1><hr><p>text</p>", "Title\n\ntext"),
        ('<p><a href="https://x">link</a><img src="y"></p>', "link"),
        ("<p>1 < 2 and <unclosed", "1 < 2 and <unclosed"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_what_a_reader_sees(html, text):
    assert html_to_text(html) == text


@pytest.mark.parametrize(("html", "why"), [("<div>" * 3000, "nested too deeply"), ("<![if-->", "cannot be parsed")])
def test_what_nobody_can_read_is_a_bad_row(html, why):
    with pytest.raises(BadRow, match=why):
        html_to_text(html)


def test_any_markup_is_text_or_a_bad_row():
    """2,000 texts of pieces that parsers stumble over, with warnings as errors. No NUL is left, which sets off code on the way."""
    pieces = [
        "<p>",
        "</p>",
        "<![CDATA[",
        "]]>",
        "<!",
        "<!--",
        "-->",
        "<pre>",
        "<code>",
        "</code>",
        "</pre>",
        "<ul>",
        "<li>",
        "&amp",
        "&#0;",
        "&#xD800;",
        "http://x.y",
        "<?xml",
        "<br/>",
    ]
    pieces += ["<a href='", "<script>", "ก", "<table><tr><td>", "\n", "<![if", "<div <div ", "/tmp/file.txt", "\0"]
    rng = random.Random(0)
    for _ in range(2000):
        html = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        with suppress(BadRow):
            text = html_to_text(html)
            assert "\0" not in text and text == text.strip()
            text.encode()
