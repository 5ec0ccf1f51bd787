"""LongBench's metrics: how close a prediction is to an answer, from 0 to 1.

They follow the behaviour of the released scorer (github.com/THUDM/LongBench, metrics.py). ``strict=True`` keeps its
bugs. ``strict=False`` corrects the two that lower the score of a right prediction: ROUGE gives up on long texts, and a
list of classes is shortened while it is read. No metric cuts predictions to their first line, because that is a
property of the data set. rapidfuzz, python-Levenshtein and other ROUGE packages give other numbers.
"""

from __future__ import annotations

import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from functools import cache

import jieba  # type: ignore[import-untyped]
from rouge import Rouge  # type: ignore[import-untyped]

from gateau.errors import DataError

# This is the released scorer's set. It lacks the opening 《, both 〈 and 〉, and ．; these gaps are kept.
_CHINESE_PUNCTUATION = "".join(
    chr(code)
    for first, last in (
        (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011),
        (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F),
        (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64),
    )
    for code in range(first, last + 1)
)  # fmt: skip
_DROP_ASCII = str.maketrans("", "", string.punctuation)
_DROP_BOTH = str.maketrans("", "", string.punctuation + _CHINESE_PUNCTUATION)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"\d+")

# Python's default recursion limit, less the frames of the released scorer below its call of the ROUGE package
_UPSTREAM_FRAMES = 1000 - 3
_SPARE_FRAMES = 100


def qa_f1(prediction: str, answer: str) -> float:
    """Return the F1 of the multisets of words, 0 if no word is shared.

    Case, ASCII punctuation and the articles a, an, the are ignored. F1 is the one of SQuAD (arXiv 1606.05250).
    """
    return _f1(_english_words(prediction), _english_words(answer))


def qa_f1_zh(prediction: str, answer: str) -> float:
    """Return the F1 of the multisets of jieba's words, without case, white space, ASCII and Chinese punctuation."""
    return _f1(_chinese_words(prediction), _chinese_words(answer))


def rouge_l(prediction: str, answer: str, *, strict: bool) -> float:
    """Return the F-measure (beta = 1) of ROUGE-L (Lin 2004) as the package ``rouge`` computes it.

    The package counts distinct words, and a sentence ends at every full stop. A text without a sentence scores 0. The
    package searches recursively, with one frame for each word. The released scorer counts its RecursionError as 0.
    ``strict`` does so at the same number of words, whatever the depth of the caller's own stack.
    """
    return _rouge_l(prediction, answer, _UPSTREAM_FRAMES if strict else None)


def rouge_l_zh(prediction: str, answer: str, *, strict: bool) -> float:
    """Return :func:`rouge_l` of jieba's words. Sentences end only at the ASCII full stop, as in the released scorer."""
    cut = _tokenizer().cut
    # the released scorer's stack is one frame deeper here
    return _rouge_l(" ".join(cut(prediction)), " ".join(cut(answer)), _UPSTREAM_FRAMES - 1 if strict else None)


def classification(prediction: str, answer: str, classes: Sequence[str], *, strict: bool) -> float:
    """Return 1 / (number of classes named in the prediction) if the answer is one of them, else 0. Case matters.

    Classes that are a proper part of the answer do not count as named. The released scorer removes them from the list
    over which it iterates, and so skips the class behind each; ``strict`` does the same.
    """
    named = [name for name in classes if name in prediction]
    if strict:
        position = 0
        while position < len(named):
            if _is_proper_part(named[position], answer):
                named.remove(named[position])
            position += 1
    else:
        named = [name for name in named if not _is_proper_part(name, answer)]
    return 1 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str) -> float:
    """Return the share of the prediction's numbers that equal the answer as text (03 is not 3); 0 without a number."""
    numbers = _NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str, marker: str) -> float:
    """Return :func:`count` of the first number that follows ``marker`` ("Paragraph ", "段落") in the answer.

    Raises:
        DataError: the answer has no such number.
    """
    found = re.search(re.escape(marker) + r"(\d+)", answer)
    if found is None:
        raise DataError(f"the answer {answer!r} has no {marker + '<number>'!r}; is the file named after its data set?")
    return count(prediction, found.group(1))


def code_similarity(prediction: str, answer: str) -> float:
    """Return difflib's ratio of the first line of code and the answer, rounded to a whole percent (halves to even).

    Leading empty lines are skipped. A line of code has no backtick, ``#`` or ``//``. Without one, an empty line is
    compared.
    """
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    # the order matters: difflib's ratio is not symmetric
    return round(100 * SequenceMatcher(None, code, answer).ratio()) / 100


def _english_words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_DROP_ASCII)).split()


def _chinese_words(text: str) -> list[str]:
    words = ("".join(word.lower().translate(_DROP_BOTH).split()) for word in _tokenizer().cut(text))
    return [word for word in words if word]


def _f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    same = (Counter(prediction) & Counter(answer)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(answer)
    return 2 * precision * recall / (precision + recall)


def _is_proper_part(name: str, answer: str) -> bool:
    return name in answer and name != answer


def _rouge_l(prediction: str, answer: str, frames: int | None) -> float:
    # a thread's stack is empty, so the result does not depend on who calls
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_package_rouge_l, prediction, answer, frames).result()


def _package_rouge_l(prediction: str, answer: str, frames: int | None) -> float:
    """Return the package's F-measure with room for ``frames`` more Python frames; None gives as many as are needed."""
    limit, depth = sys.getrecursionlimit(), _stack_depth()
    if frames is None:
        needed = len(prediction.split()) + len(answer.split()) + prediction.count(".") + answer.count(".")
        sys.setrecursionlimit(max(limit, depth + needed + _SPARE_FRAMES))
    else:
        sys.setrecursionlimit(depth + frames)
    try:
        scores = Rouge(metrics=["rouge-l"], stats=["f"]).get_scores([prediction], [answer], avg=True)
    except (ValueError, RecursionError):
        return 0.0
    finally:
        sys.setrecursionlimit(limit)
    return float(scores["rouge-l"]["f"])


def _stack_depth() -> int:
    """Return the number of Python frames of this thread, including the caller's."""
    depth, frame = 0, sys._getframe().f_back
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


@cache
def _tokenizer() -> jieba.Tokenizer:
    """Return jieba with its own dictionary, which is read in a second.

    jieba's cache is not used: it lies in the shared temporary folder, where another user could have written it.
    """
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
