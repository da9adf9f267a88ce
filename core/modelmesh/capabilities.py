"""The capability tree: what kinds of work there are, how they nest, and the names callers may use for them.

Models register at leaves. A pool may target any node and then includes everything below. Paths are dotted
(``generation.text-generation.chat-completion``); every node name of the default tree is unique and so an alias of its
path. Names that older documents use are accepted as synonyms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

DEFAULT_TREE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "generation": {
        "text-generation": ("chat-completion", "text-completion", "code-generation"),
        "structured-generation": ("json-generation", "schema-constrained-output", "function-call-generation"),
        "image-generation": ("text-to-image", "image-to-image", "inpainting"),
        "audio-generation": ("text-to-speech", "music-generation"),
        "video-generation": ("text-to-video", "image-to-video"),
    },
    "understanding": {
        "text-understanding": ("summarization", "classification", "sentiment-analysis", "entity-extraction"),
        "vision-understanding": ("image-captioning", "object-detection", "ocr"),
        "audio-understanding": ("speech-to-text", "speaker-identification", "audio-classification"),
        "document-understanding": ("document-parsing", "table-extraction", "form-extraction"),
    },
    "transformation": {
        "image-editing": ("background-removal", "upscaling", "format-conversion"),
        "audio-processing": ("noise-reduction", "voice-cloning", "audio-separation"),
        "": ("translation", "rewriting", "style-transfer"),
    },
    "representation": {
        "embeddings": ("text-embeddings", "image-embeddings", "multimodal-embeddings"),
        "": ("tokenization", "feature-extraction"),
    },
    "retrieval": {
        "search": ("semantic-search", "web-search", "image-search", "code-search"),
        "knowledge-graph": ("graph-query", "entity-linking", "relation-extraction"),
        "rag": ("retrieval-augmented-generation", "grounded-generation"),
        "": ("reranking",),
    },
    "interaction": {
        "agent-execution": ("single-step-agent", "multi-step-agent"),
        "": ("tool-calling", "multi-turn-conversation"),
    },
    "evaluation": {
        "": ("content-moderation", "toxicity-detection", "factuality-checking", "quality-scoring"),
    },
}
"""Category → subcategory → leaves; under an empty subcategory stand the category's own leaves."""

PREDEFINED_POOLS: Mapping[str, str] = {
    "text-generation": "generation.text-generation",
    "structured-generation": "generation.structured-generation",
    "image-generation": "generation.image-generation",
    "embeddings": "representation.embeddings",
    "speech-to-text": "understanding.audio-understanding.speech-to-text",
    "text-to-speech": "generation.audio-generation.text-to-speech",
    "vision-understanding": "understanding.vision-understanding",
}
"""Pools that exist without configuration, when they are asked for by name: name → capability."""

_SYNONYMS: Mapping[str, str] = {
    "chat": "generation.text-generation.chat-completion",
    "tts": "generation.audio-generation.text-to-speech",
    "stt": "understanding.audio-understanding.speech-to-text",
    "image-to-text": "understanding.vision-understanding.image-captioning",
    "representation.image.image-to-text": "understanding.vision-understanding.image-captioning",
}

_OLD_PREFIXES: Mapping[str, str] = {
    "generation.audio": "generation.audio-generation",
    "generation.image": "generation.image-generation",
    "understanding.audio": "understanding.audio-understanding",
    "retrieval.semantic-search": "retrieval.search",
}
"""Sub-trees that older documents spell differently."""

_SYNC, _STREAMING, _BATCH = "sync", "streaming", "batch"
_DELIVERY: Mapping[str, tuple[str, ...]] = {
    "chat-completion": (_SYNC, _STREAMING, _BATCH),
    "text-to-image": (_SYNC, _BATCH),
    "text-embeddings": (_SYNC, _BATCH),
    "speech-to-text": (_SYNC, _BATCH),
    "text-to-speech": (_SYNC, _STREAMING, _BATCH),
    "document-parsing": (_SYNC, _BATCH),
    "web-search": (_SYNC,),
    "content-moderation": (_SYNC, _BATCH),
}


class NodeType(Enum):
    """Where in the tree a node stands."""

    CATEGORY = "category"
    SUBCATEGORY = "subcategory"
    LEAF = "leaf"


@dataclass
class CapabilityNode:
    """One capability.

    Attributes:
        path: Dotted, from its category.
        name: The last part of the path.
        parent: Path of the parent; None for a category.
        children: Paths, in the order they were declared.
        is_leaf: Whether models register here.
    """

    path: str
    name: str
    parent: str | None
    children: list[str] = field(default_factory=list)
    is_leaf: bool = False

    @property
    def node_type(self) -> NodeType:
        """Category, subcategory or leaf."""
        if self.parent is None:
            return NodeType.CATEGORY
        return NodeType.LEAF if self.is_leaf else NodeType.SUBCATEGORY


class CapabilityTree:
    """Capabilities by path. Empty when built; `default` makes the standard one."""

    def __init__(self) -> None:
        self._nodes: dict[str, CapabilityNode] = {}

    @classmethod
    def default(cls) -> CapabilityTree:
        """Build the standard tree: 7 categories, 16 subcategories, 58 leaves."""
        tree = cls()
        for category, groups in DEFAULT_TREE.items():
            tree.add_node("", category)
            for group, leaves in groups.items():
                parent = tree.add_node(category, group).path if group else category
                for leaf in leaves:
                    tree.add_node(parent, leaf)
        return tree

    def get_node(self, path: str) -> CapabilityNode | None:
        """Return the node at a path, or None."""
        return self._nodes.get(path)

    def get_ancestors(self, node: str) -> list[CapabilityNode]:
        """Nodes above, the immediate parent first and the category last.

        Raises:
            KeyError: There is no such path.
        """
        above: list[CapabilityNode] = []
        parent = self._node(node).parent
        while parent is not None:
            above.append(self._nodes[parent])
            parent = self._nodes[parent].parent
        return above

    def get_descendants(self, node: str) -> list[CapabilityNode]:
        """Nodes below, depth first, in the order they were declared.

        Raises:
            KeyError: There is no such path.
        """
        below: list[CapabilityNode] = []
        for child in self._node(node).children:
            below.append(self._nodes[child])
            below.extend(self.get_descendants(child))
        return below

    def get_leaves(self, node: str) -> list[CapabilityNode]:
        """Leaves at or below a node.

        Raises:
            KeyError: There is no such path.
        """
        own = self._node(node)
        return [each for each in (own, *self.get_descendants(node)) if each.is_leaf]

    def add_node(self, parent: str, name: str) -> CapabilityNode:
        """Add a capability; an existing one is returned as it is.

        Args:
            parent: Path it goes under; empty for a new category. A leaf that gets a child is a leaf no more.
            name: Lower-case ASCII letters, digits and hyphens.

        Raises:
            KeyError: The parent does not exist.
            ValueError: The name has other characters.
        """
        if re.fullmatch(r"[a-z0-9-]+", name) is None:
            raise ValueError(f"capability name {name!r} must be lower-case letters, digits and hyphens")
        path = f"{parent}.{name}" if parent else name
        if path in self._nodes:
            return self._nodes[path]
        if parent:
            above = self._node(parent)
            above.children.append(path)
            above.is_leaf = False
        node = CapabilityNode(path, name, parent or None, is_leaf=bool(parent))
        self._nodes[path] = node
        return node

    def is_ancestor_of(self, ancestor: str, descendant: str) -> bool:
        """Whether one path stands strictly above another."""
        return ancestor in self._nodes and descendant in self._nodes and descendant.startswith(f"{ancestor}.")

    def list_categories(self) -> list[CapabilityNode]:
        """The top nodes, in the order they were declared."""
        return [node for node in self._nodes.values() if node.parent is None]

    def names(self) -> list[str]:
        """Every name that `resolve` takes without a dot, sorted."""
        return sorted({node.name for node in self._nodes.values()} | {name for name in _SYNONYMS if "." not in name})

    def resolve(self, name: str) -> str | None:
        """Return the path a name stands for, or None.

        Taken are, in this order: a path; a node's name; an older spelling; and a path with parts left out, such as
        ``generation.chat-completion``, if only one path fits it.
        """
        if name in self._nodes:
            return name
        if "." not in name:
            same = [node.path for node in self._nodes.values() if node.name == name]
            if same:
                return same[0] if len(same) == 1 else None
        older = _SYNONYMS.get(name) or _respelt(name)
        if older in self._nodes:
            return older
        fitting = [path for path in self._nodes if _abbreviates(name, path)]
        return fitting[0] if len(fitting) == 1 else None

    def delivery_modes(self, path: str) -> list[str]:
        """Return how work at a leaf can be delivered: ``sync``, ``streaming``, ``batch``.

        Raises:
            KeyError: There is no such path.
        """
        node = self._node(path)
        known = _DELIVERY.get(node.name)
        if known is not None:
            return list(known)
        return [_SYNC, _STREAMING] if path.startswith("generation.text-generation") else [_SYNC]

    def _node(self, path: str) -> CapabilityNode:
        try:
            return self._nodes[path]
        except KeyError:
            raise KeyError(f"no capability {path!r} in the tree") from None


def _respelt(name: str) -> str | None:
    for old, new in _OLD_PREFIXES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None


def _abbreviates(name: str, path: str) -> bool:
    """Whether a dotted name is a path with parts left out: same first part, same last, the rest in order."""
    short, long = name.split("."), path.split(".")
    if len(short) < 2 or short[0] != long[0] or short[-1] != long[-1]:
        return False
    rest = iter(long)
    return all(part in rest for part in short)


def list_all() -> list[str]:
    """Return every name of the default tree that may be asked for, sorted."""
    return CapabilityTree.default().names()


def resolve(alias: str) -> str:
    """Return the path an alias of the default tree stands for; what is dotted or unknown comes back as it is."""
    if "." in alias:
        return alias
    return CapabilityTree.default().resolve(alias) or alias


def search(keyword: str) -> list[str]:
    """Return the names of the default tree that contain a keyword, whatever its case, sorted."""
    wanted = keyword.casefold()
    return [name for name in list_all() if wanted in name]


def tree() -> dict[str, Any]:
    """Return the default tree as nested dicts; leaves are empty ones."""
    whole = CapabilityTree.default()

    def below(node: CapabilityNode) -> dict[str, Any]:
        return {whole._nodes[path].name: below(whole._nodes[path]) for path in node.children}

    return {category.name: below(category) for category in whole.list_categories()}
