variable "region" {
  description = "Where everything stands, for example eu-central-1."
  type        = string
}

variable "name" {
  description = "Begins the name of everything that is made here."
  type        = string
  default     = "hounsfield"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}$", var.name))
    error_message = "Use 3 to 31 lower-case letters, digits and '-', beginning with a letter."
  }
}

variable "bucket" {
  description = "Name of the bucket; unique in the world, so it usually holds the name of the hospital."
  type        = string
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
}

variable "namespace" {
  description = "Namespace that infra/kubernetes and the Helm chart are installed into."
  type        = string
  default     = "hounsfield"
}

variable "subnets" {
  description = "Private subnets of the cluster for GPU nodes, at least one."
  type        = list(string)

  validation {
    condition     = length(var.subnets) > 0
    error_message = "Name at least one subnet."
  }
}

variable "gpu_instance_types" {
  description = "Instance types of the GPU nodes, the preferred first."
  type        = list(string)
  default     = ["g6.2xlarge", "g5.2xlarge"]
}

variable "gpu_nodes" {
  description = "How many GPU nodes there may be at once; there are none while nothing trains."
  type        = number
  default     = 2

  validation {
    condition     = var.gpu_nodes >= 1
    error_message = "Allow at least one node."
  }
}

variable "keep_versions_days" {
  description = "Days after which a version of an object that was replaced or deleted is removed."
  type        = number
  default     = 365
}
