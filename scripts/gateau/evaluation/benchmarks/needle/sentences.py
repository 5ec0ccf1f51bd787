"""Ten more needles, which were written for this project. No haystack holds them, and nobody knows them beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TEN: Sequence[Mapping[str, Any]] = (
    {
        "needle": "The lighthouse of Varnholm is painted green and white.",
        "question": "How is the lighthouse of Varnholm painted?",
        "keys": ["green and white"],
    },
    {
        "needle": "Old Mrs. Tandy keeps the spare key under a blue clay frog.",
        "question": "Where does Mrs. Tandy keep the spare key?",
        "keys": ["blue", "frog"],
    },
    {
        "needle": "The secret of the Ostrava plum cake is a spoon of smoked paprika.",
        "question": "What is the secret of the Ostrava plum cake?",
        "keys": ["smoked paprika"],
    },
    {
        "needle": "Captain Ilse Brandt crossed the Kara Sea with a crate of live geese.",
        "question": "With what did Ilse Brandt cross the Kara Sea?",
        "keys": ["geese"],
    },
    {
        "needle": "The night train to Pellworth leaves from behind the goods yard.",
        "question": "From where does the train to Pellworth leave?",
        "keys": ["goods yard"],
    },
    {
        "needle": "The first prize of the Halden fair was a brass telescope.",
        "question": "What was the first prize of the Halden fair?",
        "keys": ["brass telescope"],
    },
    {
        "needle": "Professor Okoro wrote her thesis about the songs of marsh crickets.",
        "question": "What did Professor Okoro write about?",
        "keys": ["songs", "marsh crickets"],
    },
    {
        "needle": "The Lindqvist brothers sold their bakery for a fishing boat.",
        "question": "For what was the Lindqvist bakery sold?",
        "keys": ["fishing boat"],
    },
    {
        "needle": "The clock in the town hall of Sorrel stopped when lightning struck a pear tree.",
        "question": "Why did the clock of Sorrel stop?",
        "keys": ["lightning"],
    },
    {
        "needle": "The museum in Tarvik lends umbrellas to visitors who bring a poem.",
        "question": "Who gets an umbrella from the museum in Tarvik?",
        "keys": ["poem"],
    },
)
