"""A stage in its image by any Docker API, docker's or podman's: locked down, with the run's files alone."""

import os
import re
import stat
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowFailException
from docker.types import DeviceRequest, Mount

USER = 10001
"""Whom the images run as; in the group of the workspace's folder, nothing else of this machine is theirs."""
LOCKED_DOWN = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}
GPU = Path("/dev/nvidiactl")
"""Is there where the machine has a GPU that a container can be given."""
WORKSPACE = "hounsfield.workspace"
"""The label of a container that says whose it is."""


class StageContainer(DockerOperator):
    """A command in the image of a stage; its working directory is the workspace of a run.

    Args:
        home: HOUNSFIELD_HOME, which is at the same path inside, and all of this machine that is.
        gpu: give it the GPUs of the machine, where there are any.
        network: let it reach a network.
        final: exit codes that no retry mends.
        kwargs: as DockerOperator has them.
    """

    template_fields = (*DockerOperator.template_fields, "working_dir")

    def __init__(
        self,
        *,
        home: Path,
        gpu: bool = False,
        network: bool = False,
        final: frozenset[int] = frozenset(),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            mounts=[Mount(str(home), str(home), type="bind")],
            mount_tmp_dir=False,
            network_mode="bridge" if network else "none",
            auto_remove="force",
            **kwargs,
        )
        self.home, self.gpu, self.final = home, gpu, final

    @cached_property
    def hook(self) -> DockerHook:
        """Docker's, which locks down every container that it makes."""
        hook = super().hook
        client = hook.api_client
        client.create_host_config = partial(client.create_host_config, **LOCKED_DOWN)
        return hook

    def execute(self, context: Any) -> Any:
        """Run the command and wait for its end.

        Raises:
            AirflowFailException: it ended in a way that no retry mends.
        """
        workspace = Path(str(self.working_dir))
        share_with_group(self.home, workspace)
        self.user = f"{USER}:{workspace.stat().st_gid}"
        self.labels = {WORKSPACE: str(workspace)}
        if self.gpu and GPU.exists():
            self.device_requests = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        self._end_earlier(workspace)
        try:
            return super().execute(context)
        except DockerContainerFailedException as error:
            code = re.search(r"'StatusCode': (\d+)", str(error))
            if code and int(code[1]) in self.final:
                said = [str(line).strip() for line in error.logs or [] if str(line).strip()]
                raise AirflowFailException(said[-1] if said else str(error)) from None
            raise

    def _end_earlier(self, workspace: Path) -> None:
        """End what an earlier attempt left running: a container outlives the worker that began it."""
        for left in self.cli.containers(all=True, filters={"label": f"{WORKSPACE}={workspace}"}):
            self.log.info("ending the container %s of an earlier attempt", left["Id"][:12])
            self.cli.remove_container(left["Id"], force=True)


def share_with_group(home: Path, workspace: Path) -> None:
    """Give the group what the owner may do in `workspace`, and the folders of `home` that all runs share.

    Files of the DVC cache stay as they are: they are only read, and a workspace may be linked to them.
    """
    for folder, _, files in os.walk(home):
        place = Path(folder)
        _open_up(place)
        if place.is_relative_to(workspace):
            for name in files:
                _open_up(place / name)


def _open_up(path: Path) -> None:
    """The group gets what the owner has; what is made in a folder stays the group's."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return
    wanted = mode | (mode & stat.S_IRWXU) >> 3 | (stat.S_ISGID if stat.S_ISDIR(mode) else 0)
    if wanted != mode:
        try:
            path.chmod(stat.S_IMODE(wanted))
        except PermissionError:
            # Made by a container, whose files are the group's from the start (components/entrypoint.sh).
            return
