// Package kube turns Kubernetes manifests into the nouns of package cluster,
// and nouns back into manifests. It is the only package that knows the
// Kubernetes API types.
//
// Reading is strict. An unknown field, a wrong type, a name given twice or a
// value that the API server would refuse is an error with file, line, object
// and field; all errors of the input are reported together, and then nothing
// of it is used. Kinds that the switch does not handle are skipped with a
// Warning. Defaults are filled in as the API server does.
//
// A policy that is refused may have to isolate its pods all the same: StandIns
// returns what is known of it. Policies of extensions/v1beta1 become those of
// networking.k8s.io/v1, whose form they have.
//
// Fields that nothing acts on (volumes, resources, affinity and others)
// are accepted, kept in Meta.Manifest, and shown again by Encode. Where that
// makes a difference, there is one Warning an object and field. A container
// needs no image, since the image is not used.
package kube
