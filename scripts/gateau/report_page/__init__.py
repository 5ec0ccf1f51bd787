"""The page of a run: pure readers turn folders of results into plain data, and templates show the data.

This package is above the stages. Every reader copes with results that are not there yet.
"""
