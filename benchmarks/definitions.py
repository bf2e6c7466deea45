"""Where a document defines what it uses, read from its text alone, without any model.

A use is a place that means something which the same text defines or first mentions before; both are character offsets.

    identifier   Python: the binding that the syntax tree's scopes give (of an import, that of an earlier file of the
                 document where there is one), and attributes that a class defines; other languages: the last
                 definition or assignment of that name before, with comments and strings left out
    label        LaTeX's \\ref to a \\label, a command to its \\newcommand; references, footnotes and anchors of
                 reStructuredText and Markdown
    citation     a key, a number in brackets, (Author, year) or a reporter's `550 U.S. 544`: its first mention
    number       "Theorem 3.2", "Figure 4", "Section 12", "Article 5", "§ 7": the line that begins with it, else its
                 first mention
    term         capitalised terms that law and contracts define: `"Company" means`, `(the "Company")`
    symbol       abbreviations, and names of code within prose: their first mention
    name         capitalised words within sentences which the text never writes small: their first mention
"""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from ladm_hf.training.perturbations import is_code

SORTS = ("identifier", "label", "citation", "number", "term", "symbol", "name")


class Use(NamedTuple):
    """One use and what it goes back to, as character offsets; `defined` is the smaller."""

    sort: str
    defined: int
    used: int


def uses(text: str, program: bool | None = None) -> list[Use]:
    """All uses in a text: of a program, by default what looks like one, identifiers alone, else all the others."""
    if is_code(text) if program is None else program:
        return [Use("identifier", *pair) for pair in identifiers(text)]
    found = {"label": labels(text), "citation": citations(text), "number": numbers(text), "term": terms(text),
             "symbol": symbols(text), "name": names(text)}  # fmt: skip
    return [Use(sort, *pair) for sort, pairs in found.items() for pair in pairs]


Pairs = Iterator[tuple[int, int]]

# Programs

_FILE = re.compile(r"^(?:#|//|--|;|%|/\*|<!--)? ?File: (\S+).*$", re.M)
_WORD = re.compile(r"[A-Za-z_]\w{2,}")


def identifiers(text: str) -> Pairs:
    """Identifiers of a program, or of several files one after the other, each below a line `# File: path`."""
    heads = list(_FILE.finditer(text)) or [None]
    earlier: dict[str, int] = {}
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        start, stop = head.end() if head else 0, following.start() if following else len(text)
        tree = _tree(text[start:stop]) if head is None or head[1].endswith(".py") else None
        yield from other_language(text, start, stop, earlier) if tree is None else _Python(text, start, earlier, tree)


def _tree(text: str) -> ast.Module | None:
    """The syntax tree; of a text cut in the middle, that of the lines before its last unit."""
    lines = text.split("\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = (n for n in range(len(lines) - 1, len(lines) // 2, -1) if re.match(r"[@\w]", lines[n]))
        for last in [len(lines), *ends][:4]:
            try:
                tree = ast.parse("\n".join(lines[:last]))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            # what is all comments to Python is another language
            return tree if tree.body else None
    return None


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
Bound = dict[str, list[int]]


class _Python:
    """The uses of one Python file, by its scopes; adds the module's names to those of earlier files."""

    def __init__(self, text: str, start: int, earlier: dict[str, int], tree: ast.Module) -> None:
        self.earlier = earlier
        self.starts = [start, *(start + found.end() for found in re.finditer("\n", text[start:]))]
        self.attributes = {name: place for name, place in earlier.items() if name.startswith(".")}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        self.attributes.setdefault(f".{method.name}", self.place(method))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                self.attributes.setdefault(f".{node.attr}", self.place(node))
        self.pairs: list[tuple[int, int]] = []
        module = self.scope(tree, [])
        for name, places in module.items():
            earlier.setdefault(name, places[0])
        earlier |= {name: place for name, place in self.attributes.items() if name not in earlier}

    def __iter__(self) -> Pairs:
        return iter(sorted(self.pairs, key=lambda pair: pair[1]))

    def place(self, node: ast.AST) -> int:
        # columns count bytes of UTF-8, which is near enough
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def scope(self, node: ast.AST, outer: list[Bound]) -> Bound:
        """Names bound in a scope; the uses in it and in what is nested in it are added."""
        own = list(_own_nodes(node))
        bound: Bound = defaultdict(list)
        for child in own:
            for name, at in self.bindings(child):
                bound[name].append(at)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    bound[argument.arg].append(self.place(argument))
        for places in bound.values():
            places.sort()
        for child in own:
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                self.use(child.id, self.place(child), [bound, *outer])
            elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
                at, defined = self.place(child), self.attributes.get(f".{child.attr}")
                if defined is not None and defined < at:
                    self.pairs.append((defined, at))
            elif isinstance(child, _SCOPES):
                # what a class binds is not seen from its methods
                self.scope(child, outer if isinstance(node, ast.ClassDef) else [bound, *outer])
        return bound

    def bindings(self, node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, self.place(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, self.place(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name, at = (alias.asname or alias.name).split(".")[0], self.place(node)
                if alias.name in self.earlier:
                    self.pairs.append((self.earlier[alias.name], at))
                yield name, self.earlier.get(alias.name, at)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, self.place(node)

    def use(self, name: str, at: int, scopes: list[Bound]) -> None:
        places = next((scope[name] for scope in scopes if name in scope), [])
        if before := bisect_left(places, at):
            self.pairs.append((places[before - 1], at))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope; of the scopes nested in it their heads, decorators, defaults and bases alone."""
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, _SCOPES):
            stack += ast.iter_child_nodes(node)


# comments and strings
_QUIET = re.compile(
    r"//[^\n]*|/\*.*?\*/|(?:^|(?<=\s))#(?!\s*define|\s*include)[^\n]*"
    r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
    re.S,
)
_DEFINITIONS = [
    re.compile(r"\b(?:def|func|fn|function|fun|sub|proc|class|struct|enum|union|interface|trait|type|mod|module|let|mut"
               r"|namespace|package|const|var|val|auto|define|macro_rules!|import)\s+(?:\([^)\n]*\)\s*)?(_?[A-Za-z]\w{2,})"),
    re.compile(r"\b(_?[A-Za-z]\w{2,})[ \t]*(?::[\w<>\[\]., |]{1,60})?(?::=|<-|=(?![=>~]))"),
    # a function of C and its like, begun in the first column
    re.compile(r"^\w[^\n;=(){}]*[\s*&:]([A-Za-z_]\w{2,})\([^\n;]*$", re.M),
    # a declaration or a parameter behind its type
    re.compile(r"\b(?!(?:return|else|goto|new|delete|throw|case|in|is|not|and|or|await|yield|typeof|import|use|package)\b)"
               r"[A-Za-z_][\w:<>]*[ *&]+([a-z_]\w{2,})(?=\s*[,;)\[])"),
]  # fmt: skip


def other_language(text: str, start: int, stop: int, earlier: dict[str, int]) -> Pairs:
    """Identifiers of a language without a parser here: a use goes back to the last definition of its name before."""
    source = _QUIET.sub(lambda found: "\0" * len(found[0]), text[start:stop])
    defined = {found.start(1) for pattern in _DEFINITIONS for found in pattern.finditer(source)}
    last = dict(earlier)
    for found in _WORD.finditer(source):
        name, at = found[0], start + found.start()
        if found.start() in defined:
            last[name] = at
            earlier.setdefault(name, at)
        elif name in last:
            yield last[name], at


# Prose


def first_mentions(mentions: Iterator[tuple[str, int]], defined: dict[str, int] | None = None) -> Pairs:
    """Every later mention, with where it is defined, else with the first mention."""
    places = dict(defined or {})
    for key, at in mentions:
        if places.setdefault(key, at) < at:
            yield places[key], at


def _mentions(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int]]:
    """What the pattern's groups that matched say, without regard to white space."""
    for found in pattern.finditer(text):
        for key in filter(None, found.groups()):
            for part in key.split(",") if "\\" in found[0] else [key]:
                yield " ".join(part.split()), found.start()


def _defined(pattern: re.Pattern[str], text: str) -> dict[str, int]:
    places: dict[str, int] = {}
    for key, at in _mentions(pattern, text):
        places.setdefault(key, at)
    return places


_LABELS = [
    (re.compile(r"\\label\{([^}]+)\}"), re.compile(r"\\\w*ref\*?\{([^}]+)\}")),
    (re.compile(r"\\(?:re)?newcommand\*?\{?(\\\w+)|\\def(\\\w+)"), re.compile(r"(\\[A-Za-z]+)")),
    (re.compile(r"^\.\. _([^:\n]+):", re.M), re.compile(r":(?:ref|numref|doc):`(?:[^`<]*<)?([^`>]+)>?`|`([^`\n]+)`_")),
    (re.compile(r"^\[(\^?[^\]\n]+)\]: ", re.M), re.compile(r"\[(\^[^\]\n]+)\](?!:)|\]\[([^\]\n]+)\]")),
    (re.compile(r"(?:\{#|<a (?:name|id)=[\"'])([\w-]+)"), re.compile(r"\]\(#([\w-]+)\)")),
]


def labels(text: str) -> Pairs:
    """References to labels that stand before them."""
    for definition, reference in _LABELS:
        places = _defined(definition, text)
        for key, at in _mentions(reference, text) if places else ():
            if places.get(key, at) < at:
                yield places[key], at


_CITATIONS = re.compile(
    r"\\cite\w*\*?(?:\[[^\]]*\])*\{([^}]+)\}|(?<![\w\]])\[(\d{1,3})\](?!\()|(\[?@[\w:.-]{4,})"
    r"|\(?([A-Z][\w'-]+(?: et al\.?| (?:and|&) [A-Z][\w'-]+)?,? \(?(?:1[89]|20)\d\d[a-z]?)\)"
    r"|\b(\d{1,3} (?:U\.S\.|S\. ?Ct\.|F\.(?: ?(?:2d|3d|4th))?|F\. ?Supp\.(?: ?[23]d)?|L\. ?Ed\.(?: ?2d)?) (?:at )?\d+)"
)


def citations(text: str) -> Pairs:
    """Later mentions of what was cited before."""
    return first_mentions(_mentions(_CITATIONS, text))


_KINDS = (
    r"(?:Theorem|Lemma|Proposition|Corollary|Definition|Example|Exercise|Remark|Figure|Fig\.|Table|Listing|Algorithm"
    r"|Equation|Eq\.|Chapter|Section|Sec\.|Part|Article|Art\.|Rule|Title|Paragraph|Clause|Schedule|Appendix|Exhibit"
    r"|Count|Step|Volume)"
)
_NUMBER = rf"({_KINDS}[ ~]\(?(?:\d+[A-Za-z]?(?:[.-]\d+)*|[IVXL]+\b|[A-Z]\b)\)?|§+ ?\d+[\w.-]*\w(?:\(\w+\))*)"
_NUMBERS = re.compile(_NUMBER, re.I)
_NUMBERED = re.compile(rf"^[ \t#*>]*{_NUMBER}", re.I | re.M)


def numbers(text: str) -> Pairs:
    """Mentions of numbered things; what a line begins with defines them."""
    lowered = ((key.lower(), at) for key, at in _mentions(_NUMBERS, text))
    return first_mentions(lowered, {key.lower(): at for key, at in reversed(_defined(_NUMBERED, text).items())})


_TERMS = re.compile(
    r"[\"“]([A-Z][\w' -]{2,40})[\"”] (?:shall )?(?:means?|refers? to|has the meaning|includes?)\b"
    r"|\((?:(?:the|each|a|an|collectively|hereinafter|hereafter|together|or),? )*[\"“]([A-Z][\w'. -]{1,40})[\"”]\)"
)


def terms(text: str) -> Pairs:
    """Terms that a contract, statute or opinion defines in quotation marks, wherever they come later."""
    places = _defined(_TERMS, text)
    if not places:
        return
    longest = sorted(places, key=len, reverse=True)
    for found in re.finditer(rf"\b({'|'.join(map(re.escape, longest))})\b", text):
        # the definition itself is no use
        if found.start() > places[found[1]] + len(found[1]) + 24:
            yield places[found[1]], found.start()


_SYMBOLS = re.compile(
    r"`([A-Za-z_.:][\w.:()]{2,40})`|\b(_?[a-z0-9]+(?:_[a-z0-9]+)+|[a-z]+[A-Z]\w*[a-z]\w*|[A-Z][A-Z0-9]{2,7})\b(?!`)"
)


def symbols(text: str) -> Pairs:
    """Abbreviations and names of code after their first mention; words in capitals that the text also writes small are
    none."""
    small = set(re.findall(r"\b[a-z]{3,}\b", text))
    return first_mentions(
        (key, at) for key, at in _mentions(_SYMBOLS, text) if not (key.isupper() and key.lower() in small)
    )


_NAMES = re.compile(r"(?<=[a-z,;]\s)([A-Z][a-z]{2,})\b")


def names(text: str) -> Pairs:
    """Proper names within sentences after their first mention."""
    small = set(re.findall(r"\b[a-z]{3,}\b", text))
    return first_mentions((key, at) for key, at in _mentions(_NAMES, text) if key.lower() not in small)
