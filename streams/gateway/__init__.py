"""HTTP for those who don't speak Kafka, and the page. A process of its own, no part of a worker: it knows the topics, not the engine."""
