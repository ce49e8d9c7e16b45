# OneCLIP for CPU.  docker build -t oneclip .  &&  docker run --rm -v "$PWD:/work" oneclip classify cat.png -l cat -l dog
# As a server, here of the model in the package, which needs no network:
#   docker run --rm -p 127.0.0.1:7997:7997 oneclip serve --host 0.0.0.0 --no-auth
# compose.yaml adds an index, limits and Prometheus.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY recipes/pocket/NOTICE-images.md recipes/pocket/heldout_sample.npz recipes/pocket/
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY constraints.txt /tmp/
COPY --from=build /wheels /wheels
# the default build of torch has CUDA's libraries, several gigabytes; to leave them out, build with
# --build-arg PIP_EXTRA_INDEX_URL=ADDRESS, the index of CPU builds that PyTorch's installation page gives
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "$(grep '^torch==' /tmp/constraints.txt)" \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /wheels/*.whl)[timm,hf,heif,parquet,serve]" \
    && rm -r /wheels /tmp/constraints.txt \
    && useradd --create-home oneclip \
    && install --directory --owner=oneclip --group=oneclip /home/oneclip/cache /home/oneclip/indexes
USER oneclip
WORKDIR /work
# models that are downloaded, and indexes, stay here: mount volumes to keep them
ENV HF_HOME=/home/oneclip/cache/huggingface ONECLIP_CACHE=/home/oneclip/cache/oneclip
ENV ONECLIP_INDEXES=/home/oneclip/indexes
EXPOSE 7997
ENTRYPOINT ["oneclip"]
CMD ["--help"]
