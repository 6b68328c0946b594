# ruff: noqa: E501 (messages are easier to read in one piece)
"""Hand-written messages, each for one corner of RFC 5322, MIME, or what IMAP tells of them."""

from __future__ import annotations

_TOP = (
    "Date: Mon, 7 Feb 1994 21:52:25 -0800\nFrom: Fred Foobar <foobar@Blurdybloop.example>\nSubject: corner\n"
)
_BODY = "\nHello Joe.\n"

_HEADERS = {
    "rfc3501 example": (
        "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\nFrom: Terry Gray <gray@cac.washington.example>\n"
        "Subject: IMAP4rev2 WG mtg summary and minutes\nTo: imap@cac.washington.example\n"
        "Cc: minutes@CNRI.Reston.example,\n   John Klensin <KLENSIN@MIT.example>\n"
        "Message-Id: <B27397-0100000@cac.washington.example>\nMIME-Version: 1.0\n"
        "Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\n"
    ),
    "sender and reply-to": _TOP + "Sender: list@example.test\nReply-To: Some Body <some@body.test>, x@y.test\n",
    "empty sender": _TOP + "Sender:\nReply-To: \nTo:\nCc: \n",
    "no from": "Subject: nobody\nSender: s@example.test\n",
    "only sender": "Sender: s@example.test\nReply-To: r@example.test\nSubject: x\n",
    "group": _TOP + "To: A Group:Ed Jones <joe@where.test>,joe@where.test,John <jdoe@one.test>;\n",
    "empty group": _TOP + "To: undisclosed-recipients:;\nCc: Undisclosed recipients: ;\n",
    "group and more": _TOP + "To: a@b.test, friends: c@d.test, e@f.test;, g@h.test\n",
    "quoted names": _TOP + 'To: "Joe Q. Public" <john.q.public@example.test>, "Giant; \\"Big\\" Box" <sysservices@example.test>\n',
    "quoted local part": _TOP + 'To: "joe smith"@example.test, <"a\\"b"@example.test>\n',
    "comments": _TOP + "To: Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>\nCc: c@d.test (Carl D.)\n",
    "nested comment": _TOP + "To: a@b.test (one (two) three)\n",
    "obsolete route": _TOP + "To: <@node.test,@other.test:mary@example.test>, : jdoe@test . example\n",
    "dotted phrase": _TOP + "To: Joe Q. Public <john@example.test>\n",
    "domain literal": _TOP + "To: a@[192.0.2.1], B <b@[IPv6:2001:db8::1]>\n",
    "null address": _TOP + "To: <>\nCc: <>, a@b.test\n",
    "bare word": _TOP + "To: root\nCc: postmaster, a@b.test\n",
    "words without address": _TOP + "To: Some Body Here\n",
    "commas": _TOP + "To: a@b.test,, ,c@d.test,\n",
    "semicolons": _TOP + "To: a@b.test; c@d.test\n",
    "missing bracket": _TOP + "To: A <a@b.test\nCc: c@d.test>\n",
    "two ats": _TOP + "To: a@b@c.test\n",
    "folded everything": (
        "Date:\n Mon,\n 7 Feb\n 1994 21:52:25\n -0800\nFrom: Fred\n Foobar\n <foobar@example.test>\n"
        "Subject: a\n  b\n\tc\nMessage-ID:\n <folded@example.test>\n"
    ),
    "encoded words": (
        "From: =?ISO-8859-1?Q?Patrik_F=E4ltstr=F6m?= <paf@nada.kth.test>\n"
        "To: =?utf-8?q?J=C3=B6rg?= =?utf-8?q?_M=C3=BCller?= <joerg@example.test>\n"
        "Subject: =?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=\n    =?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=\n"
    ),
    "repeated fields": _TOP + "Subject: second\nTo: a@b.test\nTo: c@d.test\nFrom: other@example.test\nMessage-ID: <1@x>\nMessage-ID: <2@x>\n",
    "odd names": _TOP + "X-Empty:\nX-Blank: \nx-lower: v\nX_Under-score: v\nX-Colon: a:b:c\n",
    "blank before colon": "Subject : blank\nFrom : a@b.test\nTo\t: c@d.test\n",
    "garbage line": _TOP + "this is no header line\nTo: a@b.test\n",
    "references": _TOP + "In-Reply-To: <a@b> <c@d>\nReferences: <1@x>\n <2@x>\n\t<3@x>\nMessage-ID: <4@x>\n",
    "quotes and backslashes": 'From: a@b.test\nSubject: "quoted" and \\back\\slash\nMessage-ID: <"odd\\"id"@x>\n',
    "brackets": "From: a@b.test\nSubject: [list] {17} (paren) 100% * star\n",
    "tabs": "From:\ta@b.test\nSubject:\ttabbed\tsubject\t\n",
    "trailing blanks": "From: a@b.test   \nSubject: blanks   \nTo: c@d.test\t \n",
    "nil words": 'From: NIL <nil@nil.test>\nSubject: NIL\nTo: "NIL" <a@b.test>\n',
    "empty subject": "From: a@b.test\nSubject:\nMessage-ID:\nIn-Reply-To: \nDate:\n",
    "no header at all": "",
}  # fmt: skip


def _typed(value: str, more: str = "", body: str = "\nx\n") -> str:
    return f"{_TOP}MIME-Version: 1.0\nContent-Type: {value}\n{more}{body}"


_BODIES = {
    "no mime version": _TOP + "Content-Type: text/html\n" + _BODY,
    "type alone": _typed("text"),
    "bad type": _typed("this is no type"),
    "empty type": _typed(""),
    "type in capitals": _typed("TEXT/HTML; CHARSET=UTF-8"),
    "type with comments": _typed("text/plain (a comment); charset=utf-8 (another)"),
    "quoted charset": _typed('text/plain; charset="utf-8"; format=flowed; delsp="yes"'),
    "blanks around equals": _typed("text/plain; charset = utf-8 ; name = x"),
    "quoted pairs": _typed('application/octet-stream; name="a \\"b\\" \\\\c.bin"'),
    "empty parameter": _typed('text/plain; charset=""; name=; x=y'),
    "semicolon at the end": _typed("text/plain; charset=utf-8;"),
    "parameter without value": _typed("text/plain; charset; format=flowed"),
    "rfc2231": _typed(
        "application/x-stuff; title*0*=us-ascii'en'This%20is%20even%20more%20;\n"
        " title*1*=%2A%2A%2Afun%2A%2A%2A%20; title*2=\"isn't it!\""
    ),
    "folded parameters": _typed("application/pdf;\n\tname=\"a long\n name.pdf\";\n x=1"),
    "content fields": _typed(
        "image/png",
        "Content-ID: <part1@example.test>\nContent-Description: A picture\nContent-Transfer-Encoding: BASE64\n"
        "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==\nContent-Disposition: ATTACHMENT; FileName=\"x.png\"; size=123\n"
        "Content-Language: en, de-DE\nContent-Location: http://example.test/x.png\n",
        "\niVBORw0KGgo=\n",
    ),
    "inline": _typed("text/plain", "Content-Disposition: inline\nContent-Language: fr\n"),
    "disposition with nothing": _typed("text/plain", "Content-Disposition:\nContent-ID:\nContent-Description:\n"),
    "encoding with comment": _typed("text/plain", "Content-Transfer-Encoding: 8bit (so it is)\n"),
    "quoted printable": _typed(
        "text/plain; charset=utf-8", "Content-Transfer-Encoding: quoted-printable\n",
        "\nGr=C3=BC=C3=9Fe aus=20\nK=C3=B6ln, soft=\n break and =3D sign\n",
    ),
    "base64 text": _typed(
        "text/plain; charset=utf-8", "Content-Transfer-Encoding: base64\n",
        "\nR3LDvMOfZSBhdXMgS8O2bG4gYW5kIHNlY3JldHdvcmQ=\n",
    ),
    "empty body": _typed("text/plain", "", "\n"),
    "no body separator": _TOP.rstrip("\n"),
    "one part": _typed('multipart/mixed; boundary="b"', "", "\n--b\n\nonly\n--b--\n"),
    "preamble and epilogue": _typed(
        'multipart/mixed; boundary="simple boundary"', "",
        "\nThis is the preamble.\n\n--simple boundary\n\nThis is implicitly typed.\nIt does NOT end with a "
        "linebreak.\n--simple boundary\nContent-type: text/plain; charset=us-ascii\n\nIt DOES end with one.\n\n"
        "--simple boundary--\n\nThis is the epilogue.\n",
    ),
    "blank lines around delimiters": _typed(
        "multipart/mixed; boundary=b", "", "\n\n--b\n\n\nx\n\n\n--b\n\n\n--b--\n\n\n"
    ),
    "empty parts": _typed("multipart/mixed; boundary=b", "", "\n--b\n--b\n\n--b\nContent-Type: text/html\n\n--b--\n"),
    "delimiter with blanks": _typed("multipart/mixed; boundary=b", "", "\n--b  \n\none\n--b\t\n\ntwo\n--b-- \n"),
    "prefix boundaries": _typed(
        "multipart/mixed; boundary=b", "",
        "\n--b\nContent-Type: multipart/alternative; boundary=bb\n\n--bb\n\nin one\n--bb\n\nin two\n--bb--\n--b\n\n"
        "out\n--b--\n",
    ),
    "never closed inner": _typed(
        "multipart/mixed; boundary=out", "",
        "\n--out\nContent-Type: multipart/alternative; boundary=in\n\n--in\n\none\n--out\n\ntwo\n--out--\n",
    ),
    "same boundary twice": _typed(
        "multipart/mixed; boundary=b", "", "\n--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n"
    ),
    "alternative in mixed": _typed(
        "multipart/mixed; boundary=m; charset=x", "Content-Disposition: inline; a=b\nContent-Language: en\n",
        "\n--m\nContent-Type: multipart/alternative; boundary=a\n\n--a\nContent-Type: text/plain\n\nplain\n--a\n"
        "Content-Type: text/html\nContent-ID: <h@x>\n\n<b>html</b>\n--a--\n\n--m\nContent-Type: image/gif; "
        "name=x.gif\nContent-Transfer-Encoding: base64\n\nR0lGODlhAQABAAAAACw=\n--m--\n",
    ),
    "embedded message": _typed(
        "multipart/mixed; boundary=m", "",
        "\n--m\nContent-Type: message/rfc822\nContent-Description: forwarded\n\nFrom: inner@example.test\n"
        "To: x@y.test, z@y.test\nSubject: inner subject\nMessage-ID: <inner@x>\n\ninner body\nsecond line\n--m--\n",
    ),
    "message alone": _typed("message/rfc822", "", "\nSubject: in\nFrom: a@b.test\n\nbody of in\n"),
    "message of multipart": _typed(
        "message/rfc822", "",
        "\nSubject: in\nFrom: a@b.test\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\none\n--i\nContent-Type: "
        "text/html\n\ntwo\n--i--\n",
    ),
    "rfc3501 section example": _typed(
        "multipart/mixed; boundary=one", "",
        "\n--one\nContent-Type: text/plain\n\npart 1\n--one\nContent-Type: application/octet-stream\n\npart 2\n--one\n"
        "Content-Type: message/rfc822\n\nSubject: three\nContent-Type: multipart/mixed; boundary=two\n\n--two\n\n"
        "part 3.1\n--two\nContent-Type: application/octet-stream\n\npart 3.2\n--two--\n--one\nContent-Type: "
        "multipart/mixed; boundary=four\n\n--four\nContent-Type: image/gif\n\npart 4.1\n--four\nContent-Type: "
        "message/rfc822\n\nSubject: four two\nContent-Type: multipart/mixed; boundary=five\n\n--five\nContent-Type: "
        "text/plain\n\npart 4.2.1\n--five\nContent-Type: multipart/alternative; boundary=six\n\n--six\nContent-Type: "
        "text/plain\n\npart 4.2.2.1\n--six\nContent-Type: text/richtext\n\npart 4.2.2.2\n--six--\n--five--\n--four--\n"
        "--one--\n",
    ),
    "digest": _typed(
        "multipart/digest; boundary=d", "",
        "\n--d\n\nFrom: a@b.test\nSubject: first\n\none\n--d\nContent-Type: text/plain\n\nno message\n--d--\n",
    ),
    "delivery report": _typed(
        "multipart/report; report-type=delivery-status; boundary=r", "",
        "\n--r\n\nYour mail failed.\n--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x.test\n\n"
        "Final-Recipient: rfc822; a@b.test\nAction: failed\n--r\nContent-Type: message/rfc822-headers\n\nSubject: lost\n--r--\n",
    ),
    "partial message": _typed("message/partial; id=x; number=1; total=2", "", "\nSubject: in\n\nx\n"),
    "external body": _typed("message/external-body; access-type=local-file; name=x", "", "\nContent-Type: text/plain\n\n"),
    "utf8 header": (
        "From: Jörg <joerg@example.test>\nTo: \"Žluťoučký\" <k@example.test>\nSubject: Grüße ✓\nContent-Type: "
        "text/plain; charset=utf-8; name=\"ü.txt\"\n\nSchöne Grüße, ΣΊΣΥΦΟΣ\n"
    ),
    "dates": "Date: 1 Jan 99 00:00 EST\nFrom: a@b.test\nSubject: old date\n\nx\n",
    "long subject": "From: a@b.test\nSubject: " + "word " * 300 + "\n\nx\n",
    "many addressees": "From: a@b.test\nTo: " + ",\n ".join(f"u{n}@example.test" for n in range(300)) + "\n\nx\n",
    "tab lines in body": _TOP + "\n\tx\n y\n.\n..\nFrom me\n>From you\n",
}  # fmt: skip


def tricky() -> dict[str, bytes]:
    """All with CRLF line ends."""
    texts = {**{name: head + _BODY for name, head in _HEADERS.items()}, **_BODIES}
    return {name: text.encode("utf-8").replace(b"\n", b"\r\n") for name, text in texts.items()}
