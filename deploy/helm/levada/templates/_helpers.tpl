{{- /* The name of everything: the release's, with the chart's if it is not in there. Pods add "-1", services "-nodes". */ -}}
{{- define "levada.name" -}}
{{- $name := ternary .Release.Name (printf "%s-levada" .Release.Name) (contains "levada" .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "levada.selector" -}}
app.kubernetes.io/name: levada
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "levada.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "levada.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "levada.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "levada.name" .) -}}
{{- end -}}

{{- /* The host name of node `node` of the release `root`. */ -}}
{{- define "levada.host" -}}
{{- $name := include "levada.name" .root -}}
{{ $name }}-{{ .node }}.{{ $name }}-nodes.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{- /* A TOML value. Helm reads numbers as floats, so 134217728 would be 1.34217728e+08. */ -}}
{{- define "levada.value" -}}
{{- if kindIs "string" . -}}{{ . | toJson }}
{{- else if kindIs "float64" . -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}

{{- /* levada.toml of node `node` of the release `root`. */ -}}
{{- define "levada.toml" -}}
{{- $seeds := list -}}
{{- range $node := untilStep 1 (add1 (int .root.Values.nodes) | int) 1 -}}
{{- $seeds = append $seeds (printf "%d@%s:9170" $node (include "levada.host" (dict "root" $.root "node" $node))) -}}
{{- end -}}
{{- $host := include "levada.host" . -}}
{{- $listen := .root.Values.listenAddress -}}
node_id = {{ .node }}
data_dir = "/var/lib/levada/data"
seed_nodes = {{ $seeds | toJson }}
insecure = true
{{- range $key, $value := .root.Values.config }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ include "levada.value" $value }}
{{- end }}
{{- end }}

[listen]
native = "{{ $listen }}:9170"
flight = "{{ $listen }}:9171"
http = "{{ $listen }}:9172"

[advertised]
native = "{{ $host }}:9170"
flight = "{{ $host }}:9171"
http = "{{ $host }}:9172"
{{- range $table, $keys := .root.Values.config }}
{{- if kindIs "map" $keys }}

[{{ $table }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ include "levada.value" $value }}
{{- end }}
{{- end }}
{{- end }}
{{ end -}}
