"""Ratings by a judge: requests, the judge's answers, and ratings joined to the rated items."""
