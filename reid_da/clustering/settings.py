"""Settings of the clustering that makes pseudo-labels."""

from typing import Literal

from pydantic import Field

from reid_da.config import Count, Positive, Settings, Share


class ClusteringSettings(Settings):
    """How features become clusters. The defaults are those of SpCL and Cluster-Contrast on Market-1501."""

    algorithm: Literal["dbscan", "agglomerative", "kmeans", "infomap"] = Field(
        default="dbscan",
        description="dbscan; agglomerative: average linkage; kmeans; infomap: needs the extra of that name",
    )
    metric: Literal["jaccard", "camera_jaccard", "cosine"] = Field(
        default="jaccard",
        description="what dbscan, agglomerative and infomap compare images by: the Jaccard distance of their "
        "k-reciprocal neighbours; the same with neighbours found within and across cameras apart (CA-Jaccard); or the "
        "cosine distance (dbscan and infomap only). kmeans always takes features at unit length",
    )
    convention: Literal["clustering", "reranking"] = Field(
        default="clustering",
        description="length of the neighbour lists with the image itself inside: k1 in clustering code, k1 + 1 in "
        "re-ranking; matters to jaccard only",
    )
    k1: Count = Field(
        default=30, description="neighbours among which reciprocity is asked for; jaccard, and infomap on cosine"
    )
    k2: Count = Field(default=6, description="neighbours of the query expansion, the image itself included; 1: none")
    k1_intra: Count = Field(default=5, description="k1 within the camera, the image itself not counted; camera_jaccard")
    k1_inter: Count = Field(default=20, description="k1 across cameras; the authors take one more; camera_jaccard")
    k2_intra: Count = Field(default=3, description="k2 within the camera, the image itself included; camera_jaccard")
    k2_inter: Count = Field(default=3, description="k2 across cameras; camera_jaccard")
    eps: float = Field(
        default=0.6,
        gt=0,
        le=2,
        description="largest distance at which dbscan and infomap join images, and agglomerative joins clusters; "
        "below 1 for jaccard and camera_jaccard",
    )
    eps_share: Share | None = Field(
        default=None,
        description="take for eps the mean of this share of the smallest distances instead (0.0016 in MMT)",
    )
    min_samples: Count = Field(default=4, description="images within eps of a core point of dbscan, itself included")
    num_clusters: Count | None = Field(
        default=None, description="number of clusters; needed for kmeans, replaces eps in agglomerative"
    )
    min_cluster_size: Count = Field(default=2, description="images of smaller clusters become outliers")
    kmeans_iterations: Count = Field(default=100, description="most rounds of kmeans")
    kmeans_tolerance: Positive = Field(
        default=1e-4, description="kmeans stops when the mean squared distance falls by less than this share in a round"
    )
    center_cameras: bool = Field(
        default=False,
        description="subtract from each feature the mean of its camera before images are compared",
    )
    over_styles: bool = Field(
        default=False,
        description="compare each image by its mean feature over the styles of all cameras; needs camera=true",
    )
    search: Literal["exact", "faiss", "faiss_ivf", "faiss_hnsw"] = Field(
        default="exact",
        description="how neighbours are found: exact and faiss compare all images; faiss_ivf and faiss_hnsw are "
        "approximate, for hundreds of thousands of images; exact only: camera_jaccard, dbscan on cosine",
    )
