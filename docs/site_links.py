"""For mkdocs: links from a page to the project's files, which a code host resolves, become plain names on the site."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)([^)#]+)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each such link by its text, with the path behind it where the text does not say it."""

    def plain(link: re.Match[str]) -> str:
        text, path = link.groups()
        return text if path.rsplit("/", 1)[-1].strip("/") in text else f"{text} (`{path}`)"

    return OUTSIDE.sub(plain, markdown)
