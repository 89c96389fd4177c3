"""A client of Seaway's own HTTP interface, used by the command line, the examples and tests.

Every refusal is raised as the narrowest SeawayError, with the server's own sentence as its message.
"""

from seaway.client.client import Client, Prediction, Uploaded
from seaway.client.upload import Progress
from seaway.client.waiting import wait_until_profiled, wait_until_settled

__all__ = ["Client", "Prediction", "Progress", "Uploaded", "wait_until_profiled", "wait_until_settled"]
