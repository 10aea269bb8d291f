package kube

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vswitch/vswitch/cluster"
)

// eventSource is who tells of events here, in the place of Kubernetes'
// controllers and kubelets.
const eventSource = "vswitch"

func fromEvent(e *cluster.Event) *corev1.Event {
	o := &corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		InvolvedObject: corev1.ObjectReference{APIVersion: handled[e.Object.Kind].version, Kind: string(e.Object.Kind),
			Namespace: e.Object.Namespace, Name: e.Object.Name, UID: types.UID(e.ObjectUID), FieldPath: e.Part},
		Type: e.Type(), Reason: e.Reason, Message: e.Message, Count: int32(e.Count),
		FirstTimestamp: metav1.NewTime(e.First), LastTimestamp: metav1.NewTime(e.Last),
		Source: corev1.EventSource{Component: eventSource, Host: e.Node}, ReportingController: eventSource, ReportingInstance: e.Node,
	}
	setMeta(&o.ObjectMeta, &e.Meta, 0)
	return o
}
