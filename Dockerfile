# A CPU image:  docker build -t reid-da .
# A GPU image:  docker build -t reid-da:gpu --build-arg EXTRA=gpu .
# Use:          docker run --rm -v "$PWD:/work" reid-da data check crops
#               (--user "$(id -u):$(id -g)" where the folder is not writable for user 1000; --gpus all for the GPU image)
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY reid_da ./reid_da
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ARG EXTRA=cpu
# address of the package index with torch's CPU builds, see pytorch.org; with it the CPU image is a tenth of the size
ARG TORCH_INDEX=
RUN --mount=from=build,source=/wheels,target=/wheels \
    if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install --no-cache-dir "$(ls /wheels/*.whl)[$EXTRA]"
RUN useradd --create-home --uid 1000 reid
USER reid
WORKDIR /work
ENTRYPOINT ["reid-da"]
CMD ["--help"]
