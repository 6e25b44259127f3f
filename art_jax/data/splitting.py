"""Documents cut into the short passages that a retriever searches."""

from art_jax.errors import ConfigError


def split_into_passages(text: str, max_words: int = 100) -> list[str]:
    """Cuts a text into disjoint pieces of `max_words` words, in order.

    A word is what stands between white space. Every word is in exactly one piece and
    the words of a piece are joined by single spaces. The last piece may be shorter;
    a text without words gives no piece.

    Args:
        text: of one document.
        max_words: words of a piece, at least 1.

    Raises:
        ConfigError: `max_words` is below 1.

    Source: Karpukhin et al., arXiv:2004.04906, section 4.1 (blocks of 100 words).
        Differs in: the last block of a document is kept short; DPR's own dump fills
        it up with the beginning of the document.
    """
    if max_words < 1:
        raise ConfigError(f"max_words is {max_words}; a passage needs at least 1 word")
    words = text.split()
    return [
        " ".join(words[start : start + max_words])
        for start in range(0, len(words), max_words)
    ]
