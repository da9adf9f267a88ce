"""The capability tree: the default one as documented, the names it answers to, and nodes of one's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh import capabilities
from modelmesh.capabilities import PREDEFINED_POOLS, CapabilityTree, NodeType

# The documented tree: category, then "subcategory: leaves"; without a colon stand the category's own leaves.
DOCUMENTED = {
    "generation": (
        "text-generation: chat-completion text-completion code-generation",
        "structured-generation: json-generation schema-constrained-output function-call-generation",
        "image-generation: text-to-image image-to-image inpainting",
        "audio-generation: text-to-speech music-generation",
        "video-generation: text-to-video image-to-video",
    ),
    "understanding": (
        "text-understanding: summarization classification sentiment-analysis entity-extraction",
        "vision-understanding: image-captioning object-detection ocr",
        "audio-understanding: speech-to-text speaker-identification audio-classification",
        "document-understanding: document-parsing table-extraction form-extraction",
    ),
    "transformation": (
        "image-editing: background-removal upscaling format-conversion",
        "audio-processing: noise-reduction voice-cloning audio-separation",
        "translation rewriting style-transfer",
    ),
    "representation": (
        "embeddings: text-embeddings image-embeddings multimodal-embeddings",
        "tokenization feature-extraction",
    ),
    "retrieval": (
        "search: semantic-search web-search image-search code-search",
        "knowledge-graph: graph-query entity-linking relation-extraction",
        "rag: retrieval-augmented-generation grounded-generation",
        "reranking",
    ),
    "interaction": ("agent-execution: single-step-agent multi-step-agent", "tool-calling multi-turn-conversation"),
    "evaluation": ("content-moderation toxicity-detection factuality-checking quality-scoring",),
}


def documented_paths() -> list[str]:
    """Every path of the documented tree, in its order, depth first."""
    paths = []
    for category, lines in DOCUMENTED.items():
        paths.append(category)
        for line in lines:
            group, colon, leaves = line.rpartition(":")
            above = f"{category}.{group}" if colon else category
            paths += [above] * bool(colon) + [f"{above}.{leaf}" for leaf in leaves.split()]
    return paths


PATHS = documented_paths()


@pytest.fixture
def tree() -> CapabilityTree:
    """The default tree."""
    return CapabilityTree.default()


def paths(nodes: list[capabilities.CapabilityNode]) -> list[str]:
    """Their paths."""
    return [node.path for node in nodes]


def test_the_default_tree_is_the_documented_one(tree: CapabilityTree) -> None:
    """Seven categories and everything below them, in the documented order."""
    below = [path for node in tree.list_categories() for path in (node.path, *paths(tree.get_descendants(node.path)))]

    assert below == PATHS


def test_the_default_tree_has_7_categories_16_subcategories_and_58_leaves(tree: CapabilityTree) -> None:
    """Two or three deep, with every name unique."""
    nodes = [tree.get_node(path) for path in PATHS]
    kinds = [node.node_type for node in nodes if node is not None]

    assert [kinds.count(kind) for kind in (NodeType.CATEGORY, NodeType.SUBCATEGORY, NodeType.LEAF)] == [7, 16, 58]
    assert len({path.rsplit(".", 1)[-1] for path in PATHS}) == len(PATHS)
    assert {path.count(".") for path in PATHS} == {0, 1, 2}


@pytest.mark.parametrize("path", PATHS)
def test_every_node_answers_to_its_path_and_its_name(tree: CapabilityTree, path: str) -> None:
    """And knows its place: parent, children, leaf or not."""
    node = tree.get_node(path)

    assert node is not None
    assert [tree.resolve(path), tree.resolve(node.name)] == [path, path]
    assert node.parent == (path.rpartition(".")[0] or None)
    assert node.children == [each for each in PATHS if each.rpartition(".")[0] == path]
    assert node.is_leaf is not bool(node.children)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("chat", "generation.text-generation.chat-completion"),
        ("tts", "generation.audio-generation.text-to-speech"),
        ("stt", "understanding.audio-understanding.speech-to-text"),
        ("image-to-text", "understanding.vision-understanding.image-captioning"),
        ("representation.image.image-to-text", "understanding.vision-understanding.image-captioning"),
        ("generation.audio.text-to-speech", "generation.audio-generation.text-to-speech"),
        ("generation.image.text-to-image", "generation.image-generation.text-to-image"),
        ("understanding.audio.speech-to-text", "understanding.audio-understanding.speech-to-text"),
        ("generation.audio", "generation.audio-generation"),
        ("generation.chat-completion", "generation.text-generation.chat-completion"),
        ("text-generation.chat-completion", None),
        ("nonsense", None),
        ("generation.nonsense", None),
        ("", None),
        (".", None),
        ("Chat-Completion", None),
    ],
)
def test_older_and_shortened_names_stand_for_their_path(tree: CapabilityTree, written: str, path: str | None) -> None:
    """What fits nothing resolves to nothing."""
    assert tree.resolve(written) == path


@given(st.text(alphabet="abc-.", max_size=20))
def test_what_resolves_is_in_the_tree(name: str) -> None:
    """Whatever is asked for, the answer is a path of the tree or None."""
    tree = CapabilityTree.default()

    path = tree.resolve(name)

    assert path is None or tree.get_node(path) is not None


def test_ancestors_go_from_the_parent_to_the_category(tree: CapabilityTree) -> None:
    """A category has none."""
    above = tree.get_ancestors("generation.text-generation.chat-completion")

    assert paths(above) == ["generation.text-generation", "generation"]
    assert tree.get_ancestors("generation") == []


def test_leaves_are_those_at_or_below(tree: CapabilityTree) -> None:
    """A leaf is its own only one; a category has all below."""
    leaf = "representation.tokenization"

    assert paths(tree.get_leaves(leaf)) == [leaf]
    assert paths(tree.get_leaves("representation")) == [
        "representation.embeddings.text-embeddings",
        "representation.embeddings.image-embeddings",
        "representation.embeddings.multimodal-embeddings",
        "representation.tokenization",
        "representation.feature-extraction",
    ]


@pytest.mark.parametrize("method", ["get_ancestors", "get_descendants", "get_leaves", "delivery_modes"])
def test_an_unknown_path_is_a_key_error(tree: CapabilityTree, method: str) -> None:
    """Except for `get_node`, which answers None."""
    with pytest.raises(KeyError, match=r"no capability 'generation\.nonsense'"):
        getattr(tree, method)("generation.nonsense")

    assert tree.get_node("generation.nonsense") is None


@pytest.mark.parametrize(
    ("above", "below", "answer"),
    [
        ("generation", "generation.text-generation.chat-completion", True),
        ("generation.text-generation", "generation.text-generation.chat-completion", True),
        ("generation", "generation", False),
        ("generation.text-generation", "generation", False),
        ("generation", "understanding.text-understanding", False),
        ("generation", "generation.nonsense", False),
        ("gener", "generation", False),
    ],
)
def test_ancestry_is_strict(tree: CapabilityTree, above: str, below: str, answer: bool) -> None:
    """A node is not its own ancestor, and a prefix of letters is no ancestor."""
    assert tree.is_ancestor_of(above, below) is answer


# --- nodes of one's own ---------------------------------------------------------------


def test_a_leaf_may_be_added_anywhere(tree: CapabilityTree) -> None:
    """It answers to its path and its name, and its parent lists it last."""
    node = tree.add_node("generation.text-generation", "poetry")

    assert (node.path, node.is_leaf) == ("generation.text-generation.poetry", True)
    assert tree.resolve("poetry") == node.path
    assert paths(tree.get_leaves("generation.text-generation"))[-1] == node.path
    assert tree.delivery_modes(node.path) == ["sync", "streaming"]


def test_a_leaf_that_gets_a_child_becomes_a_subcategory(tree: CapabilityTree) -> None:
    """Its child takes its place among the leaves."""
    tree.add_node("retrieval.reranking", "cross-encoder")

    node = tree.get_node("retrieval.reranking")
    assert node is not None
    assert node.node_type is NodeType.SUBCATEGORY
    assert paths(tree.get_leaves("retrieval.reranking")) == ["retrieval.reranking.cross-encoder"]


def test_a_category_may_be_added(tree: CapabilityTree) -> None:
    """An empty parent makes one; it is no leaf."""
    node = tree.add_node("", "robotics")

    assert (node.node_type, node.is_leaf, node.parent) == (NodeType.CATEGORY, False, None)
    assert paths(tree.list_categories())[-1] == "robotics"


def test_adding_a_node_again_returns_it(tree: CapabilityTree) -> None:
    """And changes nothing."""
    before = tree.get_node("generation.text-generation.chat-completion")

    again = tree.add_node("generation.text-generation", "chat-completion")

    assert again is before
    assert tree.get_node("generation.text-generation").children.count(again.path) == 1  # type: ignore[union-attr]


def test_a_name_that_two_nodes_share_stands_for_neither(tree: CapabilityTree) -> None:
    """The path still tells them apart."""
    tree.add_node("evaluation", "translation")

    assert tree.resolve("translation") is None
    assert tree.resolve("evaluation.translation") == "evaluation.translation"


def test_an_own_node_comes_before_an_older_spelling(tree: CapabilityTree) -> None:
    """Whoever adds a capability ``chat`` means it."""
    tree.add_node("interaction", "chat")

    assert tree.resolve("chat") == "interaction.chat"


@pytest.mark.parametrize("name", ["", "Chat", "a b", "a.b", "a_b", "ä", "chat\n"])
def test_a_name_is_lower_case_letters_digits_and_hyphens(tree: CapabilityTree, name: str) -> None:
    """Anything else would not survive in a path, a URL or a metric's label."""
    with pytest.raises(ValueError, match="must be lower-case letters, digits and hyphens"):
        tree.add_node("generation", name)


def test_an_unknown_parent_is_a_key_error(tree: CapabilityTree) -> None:
    """Nodes in between are not made up."""
    with pytest.raises(KeyError, match="no capability 'robotics'"):
        tree.add_node("robotics", "grasping")


def test_trees_do_not_share_their_nodes(tree: CapabilityTree) -> None:
    """What one mesh adds, another never sees."""
    tree.add_node("generation", "poetry")

    assert CapabilityTree.default().resolve("poetry") is None
    assert CapabilityTree().list_categories() == []


# --- pools, delivery, and the module's questions ----------------------------------------


def test_predefined_pools_stand_on_nodes_of_the_default_tree(tree: CapabilityTree) -> None:
    """Seven, by the name of their node."""
    assert dict(PREDEFINED_POOLS) == {
        name: tree.resolve(name)
        for name in (
            "text-generation",
            "structured-generation",
            "image-generation",
            "embeddings",
            "speech-to-text",
            "text-to-speech",
            "vision-understanding",
        )
    }


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("chat-completion", "sync streaming batch"),
        ("text-to-image", "sync batch"),
        ("text-embeddings", "sync batch"),
        ("speech-to-text", "sync batch"),
        ("text-to-speech", "sync streaming batch"),
        ("document-parsing", "sync batch"),
        ("web-search", "sync"),
        ("content-moderation", "sync batch"),
        ("text-completion", "sync streaming"),
        ("ocr", "sync"),
    ],
)
def test_work_is_delivered_as_documented(tree: CapabilityTree, name: str, modes: str) -> None:
    """What no table names is answered at once, and streamed only where text is generated."""
    path = tree.resolve(name)

    assert path is not None
    assert tree.delivery_modes(path) == modes.split()


def test_all_names_are_listed_sorted() -> None:
    """Every node's, and the older ones."""
    names = capabilities.list_all()

    assert names == sorted({path.rsplit(".", 1)[-1] for path in PATHS} | {"chat", "tts", "stt", "image-to-text"})


@pytest.mark.parametrize(
    ("alias", "path"),
    [
        ("chat-completion", "generation.text-generation.chat-completion"),
        ("tts", "generation.audio-generation.text-to-speech"),
        ("nonsense", "nonsense"),
        ("any.dotted.path", "any.dotted.path"),
        ("generation.audio.text-to-speech", "generation.audio.text-to-speech"),
    ],
)
def test_the_module_resolves_aliases_and_returns_the_rest_unchanged(alias: str, path: str) -> None:
    """Dotted and unknown names come back as they are."""
    assert capabilities.resolve(alias) == path


def test_searching_takes_any_case_and_returns_names_sorted() -> None:
    """A keyword matches anywhere in a name."""
    found = capabilities.search("SEARCH")

    assert found == ["code-search", "image-search", "search", "semantic-search", "web-search"]
    assert capabilities.search("nonsense") == []
    assert capabilities.search("") == capabilities.list_all()


def test_the_tree_as_nested_dicts_has_every_path() -> None:
    """Leaves are empty ones."""
    nested = capabilities.tree()

    found = []
    todo = [("", nested)]
    while todo:
        above, level = todo.pop()
        found += [f"{above}{name}" for name in level]
        todo += [(f"{above}{name}.", below) for name, below in level.items()]
    assert sorted(found) == sorted(PATHS)
    assert nested["evaluation"]["quality-scoring"] == {}
