# One bucket, the roles that may use it, and GPU nodes for an EKS cluster that is there already.
# docs/infra.md says how to apply it.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}
