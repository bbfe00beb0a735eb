"""Ratings in files become columns, in order of time."""

from factorstream.worker.history.history import History as History
from factorstream.worker.history.reading import read as read
