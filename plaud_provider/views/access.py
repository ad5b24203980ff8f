"""Who may see what: Airflow's own auth manager decides, for each DAG."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request


class Access:
    """
    What the user of a request may do. Each question is asked of Airflow's auth manager once per request.

    :param request: The request.
    :param user: Whom Airflow's own dependency has found behind it; it answers 401 if there is nobody.
    """

    def __init__(self, request: Request, user: GetUserDep) -> None:
        self._request = request
        self._user = user
        self._known: dict[tuple[str, str, str], bool] = {}

    def may_read(self, dag_id: str | None) -> bool:
        """
        Whether recordings and transcripts of a DAG may be seen: by who may read its task instances.

        :param dag_id: The DAG that submitted a recording, or landed a transcript; of nobody's, that is no.
        """
        return self._may("GET", DagAccessEntity.TASK_INSTANCE, dag_id)

    def may_trigger(self, dag_id: str | None) -> bool:
        """Whether runs of a DAG may be started, as *pay again* does."""
        return self._may("POST", DagAccessEntity.RUN, dag_id)

    def may_change(self, dag_id: str | None) -> bool:
        """Whether task instances of a DAG may be changed, which *mark as known* asks for."""
        return self._may("PUT", DagAccessEntity.TASK_INSTANCE, dag_id)

    def readable(self, dag_ids: Iterable[str]) -> list[str]:
        """Return those of DAGs that may be read."""
        return [dag_id for dag_id in dag_ids if self.may_read(dag_id)]

    def require_read(self, dag_id: str) -> None:
        """
        Refuse who may not read a DAG.

        :raises HTTPException: 403.
        """
        if not self.may_read(dag_id):
            raise HTTPException(403, "You may not read the task instances of this DAG.")

    def _may(self, method: Any, entity: DagAccessEntity, dag_id: str | None) -> bool:
        if not dag_id or dag_id == "~":
            # To Airflow, "any DAG".
            return False
        question = (method, entity.value, dag_id)
        if question not in self._known:
            try:
                requires_access_dag(method, entity, param_dag_id=dag_id)(self._request, self._user)
            except HTTPException:
                self._known[question] = False
            else:
                self._known[question] = True
        return self._known[question]


AccessDep = Annotated[Access, Depends(Access)]


def require_same_origin(request: Request, _user: GetUserDep) -> None:
    """
    Refuse a request that changes something and was not made by a page of ours, for somebody who is logged in.

    A form of another site cannot set a header, and its script may not without asking, which is not answered.

    :raises HTTPException: 403.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    if request.headers.get("x-requested-with") != "plaud" or site not in ("same-origin", "none"):
        raise HTTPException(403, "This request was not made by Plaud's own page in Airflow.")
