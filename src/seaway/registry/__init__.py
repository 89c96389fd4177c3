"""The control plane's memory: datasets, models, experiments, deployments, aliases, audit. The only room with SQL.

`Registry` is the door: one method for each thing to know or to change, each in one transaction. The rows of a noun are
in the file named after it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import structlog
from sqlalchemy import Connection, select

from seaway import faults
from seaway.errors import Unavailable
from seaway.registry import aliases, audit, datasets, deployments, experiments, measurements, models
from seaway.registry.artifacts import ArtifactStore, Staging
from seaway.registry.database import Database
from seaway.registry.identity import checked_name
from seaway.registry.rows import checked_limit
from seaway.registry.tables import dataset_versions, model_versions
from seaway.types import (
    Alias,
    AliasEvent,
    AuditEntry,
    Calibration,
    DatasetVersion,
    DeploymentRevision,
    Experiment,
    Json,
    Manifest,
    ModelVersion,
    Page,
    Profile,
    ServingSettings,
)

__all__ = ["ArtifactStore", "Registry", "Staging"]

log = structlog.get_logger()
T = TypeVar("T")


class Registry:
    """Everything that is registered. Synchronous; safe to call from several threads.

    Every method raises Unavailable when the database can't be reached. Names are checked (InvalidRequest).
    """

    def __init__(self, url: str, artifacts: ArtifactStore) -> None:
        self._database = Database(url)
        self.artifacts = artifacts

    def migrate(self) -> None:
        """Make or update the tables; of two at once, one waits."""
        self._database.migrate()

    def close(self) -> None:
        self._database.close()

    def _read(self, query: Callable[[Connection], T]) -> T:
        with self._database.reading() as connection:
            return query(connection)

    def _register(
        self, staging: Staging, manifest: Manifest, change: Callable[[Connection], tuple[T, bool]]
    ) -> tuple[T, bool]:
        """Write the row of a prepared artifact and put the artifact in its place, both or neither.

        The artifact is placed last before the commit: no row is ever seen before its bytes, and what the database
        refuses was never placed.
        """
        placed = False

        def place() -> None:
            nonlocal placed
            self.artifacts.place(staging, manifest)
            placed = True
            faults.point("register.before-commit")

        try:
            result = self._database.write(change, before_commit=place)
        except BaseException:
            if placed:
                self._discard(manifest.digest)
            raise
        faults.point("register.after-commit")
        return result

    def _discard(self, digest: str) -> None:
        """Remove an artifact whose commit failed, unless some row has it."""

        def unless_referenced(connection: Connection) -> None:
            # Writers come one at a time: nobody else is between placing these bytes and committing their row.
            if digest not in _referenced(connection):
                self.artifacts.discard(digest)

        try:
            self._database.write(unless_referenced)
        except Unavailable as error:
            log.warning("registry.artifact_left", digest=digest, reason=f"{error} The next start removes it.")

    def _deploy(self, change: Callable[[Connection], T]) -> T:
        result = self._database.write(change, before_commit=lambda: faults.point("deploy.before-commit"))
        faults.point("deploy.after-commit")
        return result

    # ------------------------------------------------------------------ datasets

    def add_dataset_version(
        self, dataset: str, staging: Staging, *, description: str = "", source: Json | None = None, actor: str
    ) -> tuple[DatasetVersion, bool]:
        """Keep the staged bytes as a version of `dataset`; the same bytes are the same version (False)."""
        checked_name("dataset", dataset)
        manifest = self.artifacts.prepare(staging)
        described = datasets.describe(staging.directory, manifest)
        return self._register(
            staging,
            manifest,
            lambda connection: datasets.add(
                connection, dataset, manifest, described=described, description=description, source=source, actor=actor
            ),
        )

    def get_dataset_version(self, dataset: str, version: int | None = None) -> DatasetVersion:
        """A version, or the newest. Raises NotFound."""
        return self._read(lambda connection: datasets.get(connection, dataset, version))

    def list_datasets(self, limit: int = 100, cursor: str | None = None) -> Page[Json]:
        return self._read(lambda connection: datasets.page(connection, checked_limit(limit), cursor))

    def list_dataset_versions(self, dataset: str) -> tuple[DatasetVersion, ...]:
        return self._read(lambda connection: datasets.versions(connection, dataset))

    # ------------------------------------------------------------------ models

    def add_model_version(  # noqa: PLR0913 - what is said about a version
        self, model: str, staging: Staging, inspection: models.Inspected, *,
        experiment_id: str | None = None, metrics: Json | None = None, description: str = "", actor: str,
    ) -> tuple[ModelVersion, bool]:  # fmt: skip
        """Keep the staged package as a version of `model`; the same bytes are the same version (False)."""
        checked_name("model", model)
        manifest = self.artifacts.prepare(staging)
        return self._register(
            staging,
            manifest,
            lambda connection: models.add(
                connection, model, manifest, inspection,
                experiment_id=experiment_id, metrics=metrics, description=description, actor=actor,
            ),
        )  # fmt: skip

    def link_training(
        self, model: str, version: ModelVersion, *, experiment_id: str, metrics: Json | None, actor: str
    ) -> ModelVersion:
        """Say that an experiment gave a version that is registered already. Raises NotFound, InvalidRequest."""
        linked, _ = self._database.write(
            lambda connection: models.add(
                connection, model, version.manifest, version,
                experiment_id=experiment_id, metrics=metrics, description="", actor=actor,
            )
        )  # fmt: skip
        return linked

    def get_model_version(self, model: str, version: int | str | None = None) -> ModelVersion:
        """By number, by alias, or the newest. Raises NotFound."""
        return self._read(lambda connection: models.get(connection, model, version))

    def list_models(self, limit: int = 100, cursor: str | None = None) -> Page[Json]:
        return self._read(lambda connection: models.page(connection, checked_limit(limit), cursor))

    def list_model_versions(self, model: str) -> tuple[ModelVersion, ...]:
        return self._read(lambda connection: models.versions(connection, model))

    def model_version_by_digest(self, model: str, digest: str) -> ModelVersion | None:
        return self._read(lambda connection: models.find_digest(connection, model, digest))

    # ------------------------------------------------------------------ experiments

    def create_experiment(
        self, dataset: str, dataset_version: int | None, model: str, spec: Json, actor: str
    ) -> tuple[Experiment, bool]:
        """The experiment with these parts; its id is a pure function of their digests."""
        checked_name("model", model)
        return self._database.write(
            lambda connection: experiments.create(connection, dataset, dataset_version, model, spec, actor)
        )

    def get_experiment(self, experiment_id: str) -> Experiment:
        return self._read(lambda connection: experiments.get(connection, experiment_id))

    def list_experiments(self, model: str | None = None, limit: int = 100) -> tuple[Experiment, ...]:
        return self._read(lambda connection: experiments.newest(connection, model, checked_limit(limit)))

    # ------------------------------------------------------------------ aliases

    def set_alias(self, model: str, alias: str, version: int, *, actor: str, reason: str = "") -> Alias:
        """Point `alias` at `version`. Raises NotFound; an alias of digits only would be taken for a version."""
        aliases.checked_alias(alias)

        def change(connection: Connection) -> Alias:
            models.row_id(connection, model, version)
            aliases.set_(connection, model, alias, version, actor, reason)
            return next(one for one in aliases.of_model(connection, model) if one.name == alias)

        return self._database.write(change)

    def delete_alias(self, model: str, alias: str, *, actor: str, reason: str = "") -> None:
        """Raises NotFound."""

        def change(connection: Connection) -> None:
            aliases.resolve(connection, model, alias)
            aliases.set_(connection, model, alias, None, actor, reason)

        self._database.write(change)

    def list_aliases(self, model: str) -> tuple[Alias, ...]:
        return self._read(lambda connection: aliases.of_model(connection, model))

    def alias_history(self, model: str, alias: str) -> tuple[AliasEvent, ...]:
        return self._read(lambda connection: aliases.history(connection, model, alias))

    def resolve_alias(self, model: str, alias: str, at: datetime | None = None) -> int:
        """The version that `alias` means, or meant at `at`. Raises NotFound."""
        return self._read(lambda connection: aliases.resolve(connection, model, alias, at))

    # ------------------------------------------------------------------ deployments

    def deploy(
        self, model: str, version: int, *, settings: ServingSettings | None = None, actor: str, reason: str = ""
    ) -> DeploymentRevision:
        """Ask for `version` of `model` to be served; the same as now is not asked for twice. Raises NotFound."""
        return self._deploy(
            lambda connection: deployments.deploy(
                connection, model, version, settings=settings or ServingSettings(), actor=actor, reason=reason
            )
        )

    def undeploy(self, model: str, *, actor: str, reason: str = "") -> DeploymentRevision:
        return self._deploy(lambda connection: deployments.undeploy(connection, model, actor=actor, reason=reason))

    def rollback(self, model: str, *, actor: str, reason: str = "") -> DeploymentRevision:
        """Back to what was ready before; again: to what was ready before that. Raises Conflict when nothing was."""
        return self._deploy(lambda connection: deployments.rollback(connection, model, actor=actor, reason=reason))

    def desired(self) -> tuple[DeploymentRevision, ...]:
        """The newest revision of each model."""
        return self._read(deployments.desired)

    def get_deployment(self, model: str) -> DeploymentRevision:
        """Raises NotFound."""
        return self._read(lambda connection: deployments.newest(connection, model))

    def deployment_history(self, model: str) -> tuple[DeploymentRevision, ...]:
        """Oldest first."""
        return self._read(lambda connection: deployments.revisions(connection, model))

    def get_revision(self, revision_id: int) -> DeploymentRevision:
        return self._read(lambda connection: deployments.get_revision(connection, revision_id))

    def last_ready(self, model: str) -> DeploymentRevision | None:
        return self._read(lambda connection: deployments.last_ready(connection, model))

    def record_deployment_event(self, revision_id: int, state: str, reason: str) -> None:
        """Note what became of a revision. Called by the reconcile loop."""
        self._database.write(lambda connection: deployments.record_event(connection, revision_id, state, reason))

    def record_demotion(self, revision_id: int, reason: str) -> None:
        """Note why gateways don't run a revision themselves any more; its state stays as it is."""
        self._database.write(lambda connection: deployments.record_demotion(connection, revision_id, reason))

    def lineage(self, revision_id: int, arm: int) -> Json:
        """Where a prediction came from: deployment, model version, experiment, dataset version. Raises NotFound."""
        return self._read(lambda connection: deployments.lineage(connection, revision_id, arm))

    # ------------------------------------------------------------------ measurements

    def add_calibration(self, digest: str, calibration: Calibration, *, actor: str) -> None:
        """Keep what was measured of an artifact; the newest again is not kept twice."""
        self._database.write(
            lambda connection: measurements.add_calibration(connection, digest, calibration, actor)
        )  # fmt: skip

    def find_calibration(self, digest: str, machine: str) -> Calibration | None:
        """The newest of these bytes on this machine."""
        return self._read(lambda connection: measurements.find_calibration(connection, digest, machine))

    def find_batches(self, digest: str) -> Calibration | None:
        """The newest calibration of these bytes that measured batches, whatever machine it is from."""
        return self._read(lambda connection: measurements.find_batches(connection, digest))

    def add_profile(self, digest: str, machine: str, curves: Json, *, actor: str) -> Profile:
        return self._database.write(
            lambda connection: measurements.add_profile(connection, digest, machine, curves, actor)
        )  # fmt: skip

    def find_profile(self, digest: str) -> Profile | None:
        """The newest of these bytes, whatever machine it is from."""
        return self._read(lambda connection: measurements.find_profile(connection, digest))

    # ------------------------------------------------------------------ audit, artifacts

    def audit(self, limit: int = 100, cursor: str | None = None) -> Page[AuditEntry]:
        """Newest first."""
        return self._read(lambda connection: audit.entries(connection, checked_limit(limit), cursor))

    def verify_audit(self) -> None:
        """Raises ArtifactCorrupt when an entry was changed, added or removed behind our back."""
        self._read(audit.verify)

    def referenced_artifacts(self) -> set[str]:
        """Digests that some version has."""
        return self._read(_referenced)


def _referenced(connection: Connection) -> set[str]:
    tables = (dataset_versions, model_versions)
    return {digest for table in tables for digest in connection.execute(select(table.c.digest)).scalars()}
