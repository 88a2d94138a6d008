"""HTML as text: what is read stays, what only formats goes, and code is not touched."""

import pytest

from rewards.data.formats.html_text import html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\ntwo <em>three</em></p>\n\n<p>four</p>\n", "One two three\n\nfour"),
        ("<p>a<br>b<br/>c</p>", "a\nb\nc"),
        ("<p>Do:</p>\n<ul>\n<li>this</li>\n<li><p>that</p></li>\n</ul>\n<p>end</p>", "Do:\n\n- this\n- that\n\nend"),
        ("<p>x</p><pre><code>if a &lt; b:\n\n\n    print( 1 )\n</code></pre><p>y</p>", "x\n\n```\nif a < b:\n\n\n    print( 1 )\n```\n\ny"),
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
