"""Everything that is counted, as Prometheus text: `room` holds it all, `requests` what every request of a client adds,
`words` the label values.
"""

from proxy.metrics.room import CONTENT_TYPE, Gauges, Metrics, Sample
from proxy.metrics.words import WORDS_MAX

__all__ = ["CONTENT_TYPE", "WORDS_MAX", "Gauges", "Metrics", "Sample"]
