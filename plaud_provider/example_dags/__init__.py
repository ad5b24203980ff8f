"""What users deploy as it is: `plaud dags FOLDER` copies the files beside this one."""
