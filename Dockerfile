# The mediator and its runners. CPU by default; for CUDA build with
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple .
# and give the container a GPU.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba

WORKDIR /app

# Dependencies first, so that a change of the code does not install them again. Without the
# packages this installs an empty distribution that only pulls them in.
COPY pyproject.toml README.md LICENSE constraints*.txt ./
RUN touch constraints.txt \
    && pip install --extra-index-url "${TORCH_INDEX}" --constraint constraints.txt .

COPY . .
RUN pip install --no-deps --force-reinstall . lpips==0.1.4 \
    && mkdir -p data logs \
    && chmod 0777 data logs

USER 1000:1000
EXPOSE 7070
ENTRYPOINT ["python", "-m", "mediator"]
CMD ["--topic", "nerfConfigs"]
