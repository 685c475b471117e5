"""Every setting: read from the environment, typed, and checked before anything starts."""

from tasks.settings.cxone import CxoneSettings
from tasks.settings.environment import Role
from tasks.settings.http import OAuthGrant, Tls
from tasks.settings.loading import load, load_or_exit, settings
from tasks.settings.model import ReplayPolicy, Settings
from tasks.settings.sinks import SinkSettings

__all__ = [
    "CxoneSettings",
    "OAuthGrant",
    "ReplayPolicy",
    "Role",
    "Settings",
    "SinkSettings",
    "Tls",
    "load",
    "load_or_exit",
    "settings",
]
