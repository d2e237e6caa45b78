"""The transport's error tree. Each message is one line: what, the value, the limit, the mend."""


class KafkaUtilsError(Exception):
    """Root of every error the transport raises on purpose."""


class KafkaSettingsError(KafkaUtilsError):
    """An address, a topic name or a properties file is wrong."""


class BrokerUnreachableError(KafkaUtilsError):
    """No broker answered at the address before the deadline."""


class BrokerStartError(KafkaUtilsError):
    """The embedded broker could not be started here."""


class KafkaTopicError(KafkaUtilsError):
    """A topic is missing and could not be created."""


class KafkaDeliveryError(KafkaUtilsError):
    """A message was not confirmed by the broker."""


class KafkaQueueFullError(KafkaUtilsError):
    """The producer's own queue is full; poll and try again."""


class KafkaConsumeError(KafkaUtilsError):
    """A consumer can not go on (no permission, authentication refused)."""
