# BUILD_IMAGE of the compose test: the base with pip, and all wheels, so that nothing is fetched.
FROM sangsang-test-python
COPY . /wheels
RUN PYTHONPATH="$(ls /wheels/pip-*.whl)" python3 -m pip install --no-index --find-links /wheels \
    --break-system-packages --root-user-action ignore pip
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels PIP_ROOT_USER_ACTION=ignore
