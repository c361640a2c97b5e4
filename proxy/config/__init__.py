"""The config file as frozen models; a bad one is refused whole, naming file, line and key of every problem.

`load` is the door. Knows nothing of how any room uses its section.
"""

from proxy.config.builtin import OTHER_HOSTS, WELL_KNOWN
from proxy.config.cautions import warnings
from proxy.config.checks import NOT_YET
from proxy.config.fixed import FIXED, fixed
from proxy.config.load import load, parse
from proxy.config.models import (
    AdminConfig,
    BlobsConfig,
    BreakerConfig,
    CacheConfig,
    Config,
    CredentialConfig,
    EndpointConfig,
    HydrateConfig,
    LimitsConfig,
    RegistryConfig,
    RuleConfig,
    ScrubConfig,
    SecretRef,
    TagsConfig,
    TimeoutsConfig,
    UpstreamConfig,
    UpstreamTls,
)
from proxy.config.names import upstream_names
from proxy.config.secrets import SecretUnavailable
from proxy.config.units import Address, Share
from proxy.errors import ConfigInvalid

__all__ = [
    "FIXED",
    "NOT_YET",
    "OTHER_HOSTS",
    "WELL_KNOWN",
    "Address",
    "AdminConfig",
    "BlobsConfig",
    "BreakerConfig",
    "CacheConfig",
    "Config",
    "ConfigInvalid",
    "CredentialConfig",
    "EndpointConfig",
    "HydrateConfig",
    "LimitsConfig",
    "RegistryConfig",
    "RuleConfig",
    "ScrubConfig",
    "SecretRef",
    "SecretUnavailable",
    "Share",
    "TagsConfig",
    "TimeoutsConfig",
    "UpstreamConfig",
    "UpstreamTls",
    "fixed",
    "load",
    "parse",
    "upstream_names",
    "warnings",
]
