"""Judgments for tests, as rule ``judge`` stores them."""

from helpers import write_jsonl


def judgment(item, rating, text=None, finish_reason="stop"):
    """Return a row of the judge's output."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "estimated": False}
    return {
        "id": item,
        "rating": rating,
        "text": f"Rating: [[{rating}]]" if text is None else text,
        "attempts": 1,
        "usage": usage,
        "finish_reason": finish_reason,
    }


def write_judgments(path, ratings):
    """Write a file of judgments with the given ratings by id."""
    return write_jsonl(path, [judgment(item, rating) for item, rating in ratings.items()])
